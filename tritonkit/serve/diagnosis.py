"""Why a server did not come up: from its repository index and its log, in Triton's own words."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tritonkit.errors import LaunchFailed

if TYPE_CHECKING:
    from tritonkit.client.endpoint import ModelState

_TAIL_BYTES = 256 * 1024
# What Triton logs about models that never came as far as the repository index.
_LOGGED = (
    re.compile(r"\"Poll failed for model directory '(?P<model>[^']+)': (?P<reason>.*)\"\s*$"),
    re.compile(r"\"failed to load model '(?P<model>[^']+)': (?P<reason>.*)\"\s*$"),
    re.compile(r"\"failed to load '(?P<model>[^']+)' version \d+: (?P<reason>.*)\"\s*$"),
)
_PARSER = re.compile(r"^\[libprotobuf ERROR .*?\] Error parsing text-format inference\.ModelConfig: (?P<words>.*)")
_LOUD = re.compile(r"^(?:\S*tritonserver: |[EWF]\d{4} |\[libprotobuf |error: |Error: |terminate called|\s+what\(\):)")
_NOT_LOADED = "not loaded"
# What an ensemble says whose members failed: their own reasons are the cause.
_CONSEQUENCE = re.compile(r"depends on '[^']*' which has no loaded version")
# These say that there is no GPU, whenever there is none.
_NOISE = re.compile(
    r"CudaDriverHelper has not been initialized|Failed to initialize NVML|DCGM unable to start"
    r"|Unable to allocate pinned system memory"
)
_HINTS = (
    (
        re.compile(r"No module named '(?:onnxruntime)'"),
        "Install onnxruntime into this environment: pip install 'tritonkit[cpu]' (or [gpu]).",
    ),
    (
        re.compile(r"No module named '(?P<name>[\w.]+)'"),
        "Install what provides the module {name} into the environment that tritonkit runs in.",
    ),
    (
        re.compile(r"unable to find backend library for backend '(?P<name>[^']+)'"),
        "This tritonserver has no backend {name}; NVIDIA's container has more of them. `tritonkit doctor` "
        "lists those that are here.",
    ),
    (re.compile(r"install numpy < 2"), "pip install 'numpy<2'"),
    (
        re.compile(r"already in use"),
        "Another program took the port at that moment. Start again, or choose another one.",
    ),
    (
        re.compile(r"No space left on device|increase the shared memory pool"),
        "Make room in /dev/shm (in a container: --shm-size=1g).",
    ),
    (re.compile(r"unrecognized option"), "tritonserver --help lists its flags; --server-arg passes them on."),
)


def unusable_models(index: Iterable[ModelState], expected: Sequence[str], log: str) -> tuple[tuple[str, str], ...]:
    """The models that the server cannot serve, each with the reason in Triton's words; real causes first.

    Args:
        index: the server's repository index, after all loading has ended.
        expected: the models that must be there; others count only when they failed to load.
        log: the server's log, for the models whose reason the index does not have.
    """
    ready: set[str] = set()
    reasons: dict[str, str] = {}
    for entry in index:
        if entry.state == "READY":
            ready.add(entry.name)
        elif entry.reason and entry.reason != "unloaded":
            reasons.setdefault(entry.name, entry.reason)
    # A version that failed counts also where another one of the same model is READY.
    bad = sorted(set(reasons) | (set(expected) - ready))
    logged = _logged_reasons(log)
    faults = [(name, (reasons.get(name) or logged.get(name) or _NOT_LOADED).strip()) for name in bad]
    return tuple(sorted(faults, key=lambda fault: _distance(fault[1])))


def last_errors(log: str, limit: int = 10) -> str:
    """The last lines of a server's log that complain, or its last lines when none does."""
    lines = log.splitlines()
    return "\n".join((loud_lines(lines) or lines)[-limit:])


def loud_lines(lines: Iterable[str]) -> list[str]:
    """The warnings and errors among a server's log lines, without those that only say that there is no GPU."""
    return [line for line in lines if _LOUD.match(line) and not _NOISE.search(line)]


def hint(text: str) -> str | None:
    """What to do about a known failure; None when its words are not known."""
    for pattern, advice in _HINTS:
        match = pattern.search(text)
        if match:
            return advice.format(**match.groupdict())
    return None


def failure(name: str, reason: str, log: Path, *, since: int = 0) -> LaunchFailed:
    """The error for a process that did not come up, or did not stay up, with the end of what it said itself.

    ``since`` is where its own words begin in a log that was another's before, in bytes.
    """
    message = f"{name} {reason}"
    if "\n" not in reason:
        complaints = last_errors(tail(log, since))
        message += f"\nThe end of its log:\n{complaints}" if complaints else ""
    return LaunchFailed(f"{message}\nIts log: {log}", process=name, log=log, hint=hint(message))


def tail(path: Path, since: int = 0) -> str:
    """The end of a log, of what follows the first ``since`` bytes; empty when there is none."""
    try:
        with path.open("rb") as file:
            file.seek(max(since, path.stat().st_size - _TAIL_BYTES))
            return file.read().decode(errors="replace")
    except FileNotFoundError:
        return ""


def _distance(reason: str) -> int:
    """How far a reason is from a cause that somebody can mend."""
    if reason == _NOT_LOADED:
        return 2
    return 1 if _CONSEQUENCE.search(reason) else 0


def _logged_reasons(log: str) -> dict[str, str]:
    found: dict[str, str] = {}
    parser = ""
    for line in log.splitlines():
        # What is wrong in a config.pbtxt is said by the parser, on a line of its own before.
        said = _PARSER.search(line)
        parser = said["words"] if said else parser
        for pattern in _LOGGED:
            match = pattern.search(line)
            if match:
                reason = match["reason"].replace("\\n", "\n")
                found[match["model"]] = f"{reason}: {parser}" if "text proto" in reason and parser else reason
                parser = ""
    return found
