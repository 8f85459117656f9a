"""Several files as one spec: later files and ``--set`` options replace what earlier ones say."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from tritonkit.errors import Fault, SpecError
from tritonkit.spec.document import Document, read_value
from tritonkit.spec.faults import Origin, Path
from tritonkit.spec.yaml_words import MAX_DEPTH

_KEY = re.compile(r'(?P<dot>\.)?(?:(?P<word>[A-Za-z0-9_-]+)|\[(?P<index>[0-9]{1,9})\]|\["(?P<quoted>[^"]+)"\])')


def merge(documents: Sequence[Document]) -> Document:
    """One document out of several: mappings are merged key by key, every other value is replaced by the last one."""
    merged = documents[0]
    for overlay in documents[1:]:
        origins = dict(merged.origins)
        value = _merge(merged.value, overlay.value, (), origins)
        origins.update({path: origin for path, origin in overlay.origins.items() if path})
        merged = Document(merged.file, value, origins, {**merged.variables, **overlay.variables})
    return merged


def assignment(option: str, environment: Mapping[str, str]) -> Document:
    """An option like ``models.digits.max_batch_size=64`` as a document; the value is read as one in a file is.

    ``~models.digits.dynamic_batching`` takes out what an earlier file says: a field that is left empty is not one
    that is left out.

    Raises:
        SpecError: no such form, or a value that would be refused in a file.
    """
    file = f"--set {option}"
    removing = option.startswith("~")
    dotted, equals, text = (option[1:], "=", "") if removing else option.partition("=")
    path = parse_path(dotted)
    if not equals or not path:
        raise SpecError([Fault(file, 0, "", "expected PATH=VALUE, as in models.digits.max_batch_size=64")])
    if len(path) > MAX_DEPTH:
        raise SpecError([Fault(file, 0, "", f"nested deeper than {MAX_DEPTH} levels")])
    read = read_value(text, file, path, environment)
    value: Any = _REMOVED if removing else read.value
    origins = {path[:length]: Origin(file, 0) for length in range(1, len(path) + 1)} | dict(read.origins)
    for key in reversed(path):
        value = _AtIndex(key, value) if isinstance(key, int) else {key: value}
    if not isinstance(value, dict):
        raise SpecError([Fault(file, 0, dotted, "a path begins with a key")])
    return Document(file, value, origins, read.variables)


_REMOVED = object()


class _AtIndex:
    """Replaces one item of the list that an earlier file wrote."""

    def __init__(self, index: int, value: Any) -> None:
        self.index = index
        self.value = value


def parse_path(dotted: str) -> Path:
    """The keys and indices of ``models.digits.instance_group[0].count``; empty where it is no such path."""
    path: list[str | int] = []
    position = 0
    while position < len(dotted):
        match = _KEY.match(dotted, position)
        # A dot stands before every word but the first, and before no index.
        if match is None or bool(match["dot"]) != (bool(path) and match["word"] is not None):
            return ()
        path.append(int(match["index"]) if match["index"] else match["word"] or match["quoted"])
        position = match.end()
    return tuple(path)


def _merge(base: Any, over: Any, path: Path, origins: dict[Path, Origin]) -> Any:
    if isinstance(over, _AtIndex):
        if not isinstance(base, list) or over.index >= len(base):
            message = f"there is no item {over.index} to replace"
            raise SpecError([Fault("--set", 0, ".".join(map(str, path)), message)])
        item = _merge(base[over.index], over.value, (*path, over.index), origins)
        return [*base[: over.index], item, *base[over.index + 1 :]]
    if isinstance(base, dict) and isinstance(over, dict):
        merged = dict(base)
        for key, value in over.items():
            merged[key] = _merge(base.get(key), value, (*path, key), origins)
        return {key: value for key, value in merged.items() if value is not _REMOVED}
    for known in [known for known in origins if known[: len(path)] == path and len(known) > len(path)]:
        del origins[known]
    if isinstance(over, dict):
        return {key: _merge(None, value, (*path, key), origins) for key, value in over.items() if value is not _REMOVED}
    return over
