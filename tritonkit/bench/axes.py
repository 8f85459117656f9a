"""Deployment axes: which fields of the spec a study varies, and the deployments that come of it. Pure."""

from __future__ import annotations

import copy
import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from tritonkit.errors import Fault, SpecError, nearest
from tritonkit.spec.faults import Faults, Path, dotted, shown
from tritonkit.spec.overlay import parse_path

GPUS = "gpus"
"""The axis that is no field of the spec: the GPUs that the deployment is given."""

_ANY = "*"
_UNFIT = re.compile(r"[^A-Za-z0-9_.=-]+")
_LONGEST_LABEL = 80


@dataclass(frozen=True)
class Deployment:
    """One way to deploy the spec.

    Attributes:
        name: its name, where the study gives one.
        values: dotted path and value, as JSON, of each field that differs from the spec; null takes the field out.
        gpus: the GPUs that it is given, by index or UUID; None leaves that to the spec and the machine.
    """

    name: str = ""
    values: tuple[tuple[str, str], ...] = ()
    gpus: tuple[str, ...] | None = None

    @property
    def configuration(self) -> dict[str, Any]:
        """Every varied value by its dotted path."""
        given = {path: json.loads(value) for path, value in self.values}
        return given if self.gpus is None else {**given, GPUS: list(self.gpus)}

    @property
    def label(self) -> str:
        """Short, fit for the name of a folder, and different for every deployment; empty where nothing is varied."""
        words = [self.name] if self.name else [f"{_short(path)}={_word(value)}" for path, value in self.values]
        if self.gpus is not None:
            words.append(f"gpus={'+'.join(self.gpus)}")
        text = _UNFIT.sub("-", "_".join(words)).strip("-.")
        return text if len(text) <= _LONGEST_LABEL else f"{text[: _LONGEST_LABEL - 9]}-{self._digest[:8]}"

    def __str__(self) -> str:
        return self.name or ", ".join(f"{path}: {shown_value(value)}" for path, value in self.configuration.items())

    @property
    def _digest(self) -> str:
        return hashlib.sha256(repr((self.name, self.values, self.gpus)).encode()).hexdigest()

    def assignments(self, spec: Mapping[str, Any]) -> list[str]:
        """The options ``PATH=VALUE`` that make this deployment of a spec; a value replaces what the spec says.

        Args:
            spec: the spec, as it is read.

        Raises:
            SpecError: a value is to go into something that is neither a mapping nor a list.
        """
        changed: Any = copy.deepcopy(dict(spec))
        fields: dict[Path, None] = {}
        for text, value in self.values:
            for path in expanded(path_of(text), spec):
                _put(changed, path, json.loads(value), text)
                fields[path[:3]] = None
        options = []
        for path in fields:
            place, value = dotted(path), _at(changed, path)
            # Mappings merge into what stands there; taken out first, it is replaced.
            options += [f"~{place}"] if _at(spec, path) is not None else []
            # What is read back may hold no variables: they have their values already.
            options += [f"{place}={json.dumps(value).replace('$', '$$')}"] if value is not None else []
        return options


def path_of(text: str) -> Path:
    """The keys and indices of a dotted path, in which ``*`` may stand for every entry; empty where it is none."""
    return parse_path(text.replace(".*", '["*"]'))


def combined(axes: Mapping[str, Sequence[Any]], variants: Sequence[tuple[str, Mapping[str, Any]]]) -> list[Deployment]:
    """Every combination of the axes' values, with each of the named variants where there are any."""
    found = []
    for (name, given), values in product(variants or [("", {})], product(*axes.values())):
        fields = {**given, **dict(zip(axes, values, strict=True))}
        gpus = fields.pop(GPUS, None)
        told = "_".join([name, *(f"{_short(path)}={_word(json.dumps(fields[path]))}" for path in axes if path != GPUS)])
        found.append(
            Deployment(
                name=told if name else "",
                values=tuple((path, json.dumps(value, sort_keys=True)) for path, value in fields.items()),
                gpus=None if gpus is None else tuple(str(gpu) for gpu in gpus),
            )
        )
    return list(dict.fromkeys(found))


def check_paths(paths: Iterable[str], spec: Mapping[str, Any], where: Path, faults: Faults) -> None:
    """Add a fault for every path that leads nowhere: no path at all, or to a model or server that is not there."""
    for text in paths:
        if text == GPUS:
            continue
        path = path_of(text)
        if len(path) < 2:
            faults.add((*where, text), "expected the path of a field, as in models.digits.instance_group[0].count")
        elif not expanded(path, spec):
            names = spec.get(str(path[0]), {})
            known = list(names) if isinstance(names, dict) else [one.get("name", "") for one in names]
            if path[0] not in spec:
                faults.add((*where, text), f"the spec has no '{path[0]}'{nearest(str(path[0]), spec)}")
            else:
                faults.add((*where, text), f"the spec has no such entry{nearest(str(path[1]), known)}")


def expanded(path: Path, spec: Mapping[str, Any]) -> list[Path]:
    """The places that a path means: ``*`` is every entry, a server goes by its name. Only its head must exist."""
    if not path:
        return []
    head, *rest = path
    entries = spec.get(str(head))
    if not rest:
        return [path]
    first = rest[0]
    if isinstance(entries, dict):
        if first == _ANY:
            return [(head, name, *rest[1:]) for name in entries]
        return [path] if head != "models" or first in entries else []
    if isinstance(entries, list):
        found = [
            index
            for index, entry in enumerate(entries)
            if first in (_ANY, index) or (isinstance(entry, dict) and entry.get("name") == first)
        ]
        return [(head, index, *rest[1:]) for index in found]
    return []


def shown_value(value: Any) -> str:
    """A value as tables show it."""
    return "left out" if value is None else json.dumps(value) if isinstance(value, (dict, list)) else str(value)


def _at(value: Any, path: Path) -> Any:
    for key in path:
        if isinstance(value, dict) and isinstance(key, str):
            value = value.get(key)
        elif isinstance(value, list) and isinstance(key, int) and key < len(value):
            value = value[key]
        else:
            return None
    return value


def _put(holder: Any, path: Path, value: Any, text: str) -> None:
    """Put a value at a place, with the mappings and lists on the way; None takes out what is there."""
    for depth, key in enumerate(path[:-1]):
        following: Any = [] if isinstance(path[depth + 1], int) else {}
        there = _at(holder, (key,))
        # instance_group may have its short form, a number: the list takes its place.
        if not isinstance(there, type(following)):
            _set(holder, key, following, text)
        holder = _at(holder, (key,))
    if value is None and isinstance(holder, dict):
        holder.pop(path[-1], None)
    else:
        _set(holder, path[-1], value, text)


def _set(holder: Any, key: str | int, value: Any, text: str) -> None:
    if isinstance(holder, dict) and isinstance(key, str):
        holder[key] = value
    elif isinstance(holder, list) and isinstance(key, int) and key <= len(holder):
        holder[key : key + 1] = [value]
    else:
        raise SpecError([Fault("deployment", 0, text, f"there is nothing to put item {key} into")])


def _short(path: str) -> str:
    """The last words of a path: what it is about, without where it stands."""
    words = [str(part) for part in path_of(path) if isinstance(part, str) and part != _ANY]
    return ".".join(words[1:] if len(words) > 2 else words) or shown(path)


def _word(value: str) -> str:
    """A JSON value, fit for a label."""
    if len(value) <= 16 and value[:1] not in "{[":
        return value.strip('"').replace("null", "none")
    return hashlib.sha256(value.encode()).hexdigest()[:6] if value != "{}" else "default"
