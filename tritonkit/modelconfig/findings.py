"""What checking a configuration finds: each finding with its rule's code, its place, and the way out."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum

from tritonkit.spec.faults import Path, dotted


class Severity(str, Enum):
    """How much a finding matters: Triton refuses an error, loads a warning into trouble, and does not mind an info."""

    ERROR = "error"
    WARNING = "warning"
    INFO = "info"


@dataclass(frozen=True)
class Finding:
    """One thing that a rule has to say of a configuration.

    Attributes:
        code: the rule's stable name, as in ``IO003``.
        severity: ``ERROR`` where Triton would refuse to load the model.
        path: where the value stands, from the root of the spec: ``("models", "digits", "input", 0, "dims")``.
        message: what is wrong.
        triton: what Triton would say, in its own words; empty where it says nothing.
        instead: what to write instead.
    """

    code: str
    severity: Severity
    path: Path
    message: str
    triton: str
    instead: str

    @property
    def refuses(self) -> bool:
        """Whether Triton would refuse to load the model."""
        return self.severity is Severity.ERROR

    def __str__(self) -> str:
        return f"{self.code} {dotted(self.path)}: {self.message}"


def refused(findings: Iterable[Finding]) -> bool:
    """Whether Triton would refuse what the findings are about."""
    return any(finding.refuses for finding in findings)
