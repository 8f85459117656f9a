"""From files to a frozen spec, with every fault of its frame collected on the way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path as FilePath
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from tritonkit.errors import nearest
from tritonkit.spec import overlay
from tritonkit.spec.document import Document, read
from tritonkit.spec.export import keys_at
from tritonkit.spec.faults import Faults, Path, shown
from tritonkit.spec.schema import OWN_KEYS, Model, ServerEntry, Slo, Spec, Step

_LOADS = frozenset({"source", "versions", "ensemble", "ensemble_scheduling"})


@dataclass(frozen=True)
class LoadedSpec:
    """A spec, and where it came from.

    Attributes:
        spec: what it says. Values at fault are left out of it, so that later checks can go on.
        directory: the folder that its relative paths start from: that of the first file.
        files: every file that was read.
        variables: the environment variables it asked for, with the value each had (None: unset).
        faults: the faults so far; call ``faults.raise_if_any()`` after the last check and before any act.
    """

    spec: Spec
    directory: FilePath
    files: tuple[FilePath, ...]
    variables: Mapping[str, str | None]
    faults: Faults

    @property
    def repository(self) -> FilePath:
        """Where the spec wants its model repository."""
        return self.directory / self.spec.repository


def load(files: Sequence[FilePath], assignments: Sequence[str], environment: Mapping[str, str]) -> LoadedSpec:
    """Read a spec and its overlays.

    Args:
        files: the spec, then the overlays, each replacing what the ones before it say.
        assignments: ``PATH=VALUE`` options, applied last.
        environment: where ``${NAME}`` is looked up.

    Raises:
        SpecError: a file cannot be read as YAML, or it has no models at all. Other faults are collected.
    """
    documents = [read(file, environment) for file in files]
    document = overlay.merge([*documents, *(overlay.assignment(option, environment) for option in assignments)])
    faults = Faults(document.file, document.origins)
    raw = dict(document.value)
    models = raw.get("models")
    if isinstance(models, dict):
        _refuse_misnamed(documents[0], models, faults)
        raw["models"] = {name: _model(value, ("models", name), faults) for name, value in models.items()}
    spec = validated(Spec, raw, (), faults)
    if spec is None:
        faults.raise_if_any()
        raise AssertionError("a spec that is refused has a fault")
    _check_servers(raw.get("servers"), models if isinstance(models, dict) else {}, faults)
    return LoadedSpec(spec, files[0].parent, tuple(files), document.variables, faults)


def _check_servers(servers: Any, models: Mapping[str, Any], faults: Faults) -> None:
    """What no entry can say wrong by itself; entries that are wrong in other ways are looked at as well."""
    names: set[str] = set()
    for index, entry in enumerate(servers if isinstance(servers, list) else []):
        said = entry if isinstance(entry, dict) else {}
        path: Path = ("servers", index)
        name = said.get("name")
        if isinstance(name, str):
            if name in names:
                faults.add((*path, "name"), f"'{name}' is the name of two servers")
            names.add(name)
        for key in ("models", "gpus"):
            values = said[key] if isinstance(said.get(key), list) else []
            for place, value in enumerate(values):
                if key == "models" and isinstance(value, str) and value not in models:
                    faults.add((*path, key, place), f"no model '{value}'{nearest(value, models)}")
                elif value in values[:place]:
                    faults.add((*path, key, place), f"{shown(value)} is named twice")


def _refuse_misnamed(first: Document, models: Mapping[str, Any], faults: Faults) -> None:
    """Models that only an overlay or ``--set`` knows, and that have nothing to load: a slip in a name."""
    stated = first.value.get("models")
    known = stated if isinstance(stated, dict) else {}
    for name, model in models.items():
        if name not in known and isinstance(model, dict) and not _LOADS.intersection(model):
            # A nearest name is most of the help; the rest of the message stands for a model that is really new.
            message = f"there is no such model to change in {first.file}{nearest(name, known)}"
            faults.add(("models", name), f"{message}; a new one needs a source or an ensemble")


def _model(raw: Any, path: Path, faults: Faults) -> Model:
    if not isinstance(raw, dict):
        faults.add(path, f"expected a mapping of the model's fields, found {shown(raw)}")
        return Model()
    own = {key: value for key, value in raw.items() if key in OWN_KEYS}
    fields = {key: value for key, value in raw.items() if key not in OWN_KEYS}
    return validated(Model, {**own, "fields": fields}, path, faults) or Model(fields=fields)


def validated(kind: type[Any], raw: dict[str, Any], path: Path, faults: Faults) -> Any:
    """An instance of ``kind``; keys at fault are reported and left out. None if it cannot do without them."""
    known = [name for name in kind.model_fields if name != "fields"]
    try:
        return kind.model_validate(raw)
    except ValidationError as error:
        details = error.errors(include_url=False)
    # A list whose items are all at fault is told to be too short as well.
    inner = {detail["loc"][:-1] for detail in details}
    details = [
        detail
        for detail in details
        if detail["type"] != "too_short"
        or detail["loc"] not in {loc[: len(detail["loc"])] for loc in inner if len(loc) >= len(detail["loc"])}
    ]
    for detail in details:
        # Pydantic's own words are no part of a value's path: "[key]", and the tags of a source's forms.
        where: Path = tuple(part for part in detail["loc"] if not (isinstance(part, str) and part.startswith("[")))
        faults.add((*path, *where), _message(detail, known if len(where) == 1 else _known_below(detail["loc"])))
    kept = _without(raw, [detail["loc"] for detail in details])
    try:
        return kind.model_validate(kept)
    except ValidationError:
        return None


def _known_below(location: tuple[int | str, ...]) -> list[str]:
    for key, kind in (("ensemble", Step), ("servers", ServerEntry), ("slo", Slo)):
        if location[0] == key:
            return list(kind.model_fields)
    return keys_at(location)


def _without(raw: dict[str, Any], at_fault: list[tuple[int | str, ...]]) -> dict[str, Any]:
    kept = {key: value for key, value in raw.items() if not any(loc[:1] == (key,) for loc in at_fault)}
    if "models" in raw:
        kept.setdefault("version", 1)
    names = {loc[1] for loc in at_fault if loc[:1] == ("models",) and len(loc) > 1}
    if names:
        # One model at fault does not hide the others.
        kept["models"] = {name: model for name, model in raw["models"].items() if name not in names}
    return kept


def _message(detail: ErrorDetails, known: list[str]) -> str:
    kind = detail["type"]
    if kind == "missing":
        return "is missing"
    if kind == "extra_forbidden":
        return f"unknown key{nearest(str(detail['loc'][-1]), known)}"
    if kind == "model_type":
        slo = detail["ctx"]["class_name"] == Slo.__name__
        wanted = "latency_p99 and rate, as in {latency_p99: 20ms, rate: 300/s}" if slo else "a mapping"
        return f"expected {wanted}, found {shown(detail['input'])}"
    if kind == "too_short":
        least = detail["ctx"]["min_length"]
        return "may not be empty" if least == 1 else f"expected {least} values, found {detail['ctx']['actual_length']}"
    words = detail["msg"].removeprefix("Value error, ")
    words = words.replace("Input should be", "expected").replace("dictionary", "mapping").replace("tuple", "list")
    return f"{words}, found {shown(detail['input'])}"
