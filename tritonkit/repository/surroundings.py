"""What the folder of a model is planned with, besides the model itself."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tritonkit.spec.faults import Faults


@dataclass(frozen=True)
class Surroundings:
    """What a model's folder depends on besides the model.

    Attributes:
        directory: the folder that the spec's paths start from.
        repository: the repository that the folder will be part of.
        check: whether files that Triton would miss are faults.
        faults: where every fault is reported.
        sources: whether the sources and files that the spec names have to be there.
    """

    directory: Path
    repository: Path
    check: bool
    faults: Faults
    sources: bool = True
