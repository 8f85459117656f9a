"""What the figures of a study rest on, as lines that people read and two studies are held against. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from tritonkit.bench.records import Record, Study

# Of study.json: what figures depend on, whatever is measured.
_SURROUNDINGS = ("tritonkit", "perf_analyzer", "machine")
_COURSE = ("state", "started", "seed", "repeats", "warmup_s")


def surroundings(study: Study) -> dict[str, str]:
    """Versions and hardware, by what they are of: all that two studies should have in common."""
    found = dict(line for name in _SURROUNDINGS for line in _lines(name, study.document.get(name)))
    servers = [told["server"] for told in _deployments(study).values() if told.get("server")]
    # Names and addresses differ with every start.
    versions = list(dict.fromkeys(str(server.get("version")) for server in servers))
    return {**found, "server version": ", ".join(versions)} if versions else found


def provenance(study: Study) -> list[tuple[str, str]]:
    """Everything that is shown under a report: how the study went, then its surroundings."""
    course = [line for name in _COURSE for line in _lines(name, study.document.get(name))]
    return [("name", study.name), *course, *surroundings(study).items()]


def model_configuration(study: Study, record: Record) -> Mapping[str, Any] | None:
    """The configuration of a record's model, as the server gave it; None where the study does not hold it."""
    for told in _deployments(study).values():
        models = told.get("models", {})
        if told.get("configuration", {}) == record.configuration and record.model in models:
            found: Mapping[str, Any] = models[record.model]
            return found
    return None


def _deployments(study: Study) -> Mapping[str, Mapping[str, Any]]:
    found: Mapping[str, Mapping[str, Any]] = study.document.get("deployments", {})
    return found


def _lines(path: str, value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _lines(f"{path} {name}", inner)
    elif isinstance(value, list | tuple):
        yield path, ", ".join(map(str, value)) or "none"
    elif value is not None:
        yield path, str(value)
