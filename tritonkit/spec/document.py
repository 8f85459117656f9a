"""One YAML file, read safely, with the line that every value stands on."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path as FilePath
from typing import Any

import yaml

from tritonkit.errors import Fault, SpecError
from tritonkit.spec.faults import Origin, Path, dotted, shown

DEFAULT_REPOSITORY = "model_repository"
"""Where the repository goes if the spec does not say, relative to it."""

MAX_BYTES = 8 * 1024 * 1024
"""Larger files are refused unread: a spec of 1,000 models is about 300 kB."""

MAX_VALUES = 1_000_000
"""More values than this are refused: a few nested anchors can expand without bound."""

MAX_DEPTH = 100
"""Deeper nesting is refused before the parser's own recursion can exhaust the stack."""

_TAG = "tag:yaml.org,2002:"
_VARIABLE = re.compile(r"\$(?:\$|\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?::-(?P<default>[^}]*))?\})")
# What Python makes of bytes in the environment that are no text.
_SURROGATE = re.compile("[\ud800-\udfff]")
_SCALARS = frozenset(f"{_TAG}{name}" for name in ("str", "int", "float", "bool", "null", "binary"))
_COLLECTIONS = frozenset(f"{_TAG}{name}" for name in ("map", "seq"))


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """The safe loader, with YAML 1.2's booleans: ``on``, ``off``, ``yes`` and ``no`` are words, as are dates."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag not in (f"{_TAG}bool", f"{_TAG}timestamp")]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(f"{_TAG}bool", re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF"))


@dataclass(frozen=True)
class Document:
    """What a file says.

    Attributes:
        file: the file's path, as the user gave it.
        value: the mapping at the top, of plain Python values.
        origins: where each value was read from.
        variables: the environment variables that ``${NAME}`` asked for, with the value each had (None: unset).
    """

    file: str
    value: dict[str, Any]
    origins: Mapping[Path, Origin]
    variables: Mapping[str, str | None] = field(default_factory=dict)


def read(path: FilePath, environment: Mapping[str, str]) -> Document:
    """Read one YAML file.

    In its strings ``${NAME}`` and ``${NAME:-default}`` stand for values of ``environment``, and ``$$`` for ``$``.

    Raises:
        SpecError: not a readable file, too large, not UTF-8, not YAML, duplicate keys, an unset variable, or no
            mapping at the top. Every fault that can be found in one pass is reported.
    """
    file = str(path)
    text = _text(path)
    reader = _Reader(file, environment)
    with _syntax_faults(file):
        _refuse_deep_nesting(file, text)
        loader = _Loader(text)
        try:
            node = loader.get_single_node()
            value = None if node is None else reader.convert(loader, node, ())
        finally:
            loader.dispose()
    if reader.faults:
        raise SpecError(reader.faults)
    if value is None:
        raise SpecError([Fault(file, 0, "", "the file is empty; expected a mapping with 'version' and 'models'")])
    if not isinstance(value, dict):
        found = shown(value)
        raise SpecError([Fault(file, 1, "", f"expected a mapping with 'version' and 'models', found {found}")])
    return Document(file, value, reader.origins, reader.variables)


def peek(path: FilePath, key: str) -> str | None:
    """The string at a key of the top mapping, found without reading the values of the others.

    None where there is none, where it depends on the environment, or where the file cannot be used at all.
    """
    depth, is_key, found = 0, False, False
    try:
        for event in yaml.parse(_text(path), Loader=_Loader):
            if isinstance(event, yaml.CollectionStartEvent):
                depth += 1
                if depth == 1:
                    is_key = isinstance(event, yaml.MappingStartEvent)
                    if not is_key:
                        return None
            elif isinstance(event, yaml.CollectionEndEvent):
                depth -= 1
                is_key = depth == 1
            elif depth == 1 and isinstance(event, yaml.ScalarEvent):
                if found:
                    return None if "$" in event.value else str(event.value)
                found = is_key and event.value == key
                is_key = not is_key
    except (yaml.YAMLError, SpecError):
        pass
    return None


def _text(path: FilePath) -> str:
    file = str(path)
    try:
        size = path.stat().st_size
        if path.is_dir():
            raise SpecError([Fault(file, 0, "", "this is a directory; expected a YAML file")])
        if size > MAX_BYTES:
            message = f"the file has {size:,} bytes; a spec may have {MAX_BYTES:,}"
            raise SpecError([Fault(file, 0, "", message)])
        return path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise SpecError([Fault(file, 0, "", "no such file")], hint="tritonkit init digits writes one") from None
    except UnicodeDecodeError as error:
        raise SpecError([Fault(file, 0, "", f"not UTF-8 text (byte {error.start})")]) from None
    except (OSError, ValueError) as error:
        raise SpecError([Fault(file, 0, "", f"cannot be read: {error}")]) from None


@contextmanager
def _syntax_faults(file: str) -> Iterator[None]:
    try:
        yield
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        words = ", ".join(part for part in (error.context, error.problem) if part)
        raise SpecError([Fault(file, mark.line + 1 if mark else 0, "", f"not valid YAML: {words}")]) from None
    except yaml.YAMLError as error:
        words = str(error).replace("\n", " ")
        raise SpecError([Fault(file, 0, "", f"not valid YAML: {words}")]) from None


def _refuse_deep_nesting(file: str, text: str) -> None:
    # Composing recurses in C, where too deep a document ends the process; events come one by one.
    depth = 0
    for event in yaml.parse(text, Loader=_Loader):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > MAX_DEPTH:
                line = event.start_mark.line + 1 if event.start_mark else 0
                raise SpecError([Fault(file, line, "", f"nested deeper than {MAX_DEPTH} levels")])
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1


class _Reader:
    """Turns the nodes of one file into values, remembering the line of each."""

    def __init__(self, file: str, environment: Mapping[str, str]) -> None:
        self.faults: list[Fault] = []
        self.origins: dict[Path, Origin] = {}
        self.variables: dict[str, str | None] = {}
        self._file = file
        self._environment = environment
        self._open: set[int] = set()

    def convert(self, loader: Any, node: yaml.Node, path: Path) -> Any:
        line = node.start_mark.line + 1
        self.origins[path] = Origin(self._file, line)
        if len(self.origins) > MAX_VALUES:
            raise SpecError([Fault(self._file, line, "", f"more than {MAX_VALUES:,} values")])
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(loader, node, path, line)
        if node.tag not in _COLLECTIONS:
            self._fault(line, path, f"the tag {node.tag} is not allowed")
            return None
        if id(node) in self._open:
            self._fault(line, path, "an anchor that contains itself")
            return None
        self._open.add(id(node))
        try:
            if isinstance(node, yaml.SequenceNode):
                return [self.convert(loader, item, (*path, index)) for index, item in enumerate(node.value)]
            return self._mapping(loader, node, path)
        finally:
            self._open.discard(id(node))

    def _scalar(self, loader: Any, node: yaml.ScalarNode, path: Path, line: int) -> Any:
        if node.tag not in _SCALARS:
            self._fault(line, path, f"the tag {node.tag} is not allowed")
            return None
        try:
            value = loader.construct_object(node)
        except (ValueError, yaml.YAMLError):
            self._fault(line, path, f"cannot be read as {node.tag.removeprefix(_TAG)}: {node.value!r:.60}")
            return None
        return self._interpolate(value, path, line) if isinstance(value, str) and "$" in value else value

    def _mapping(self, loader: Any, node: yaml.Node, path: Path) -> dict[str, Any]:
        seen: dict[str, int] = {}
        for key, _ in node.value:
            line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode):
                self._fault(line, path, "a key must be a word or a number")
            elif key.tag != f"{_TAG}merge" and key.value in seen:
                where = (*path, key.value)
                self._fault(line, where, f"given twice; it first stands on line {seen[key.value]}")
            else:
                seen[key.value] = line
        loader.flatten_mapping(node)
        values: dict[str, Any] = {}
        for key, item in node.value:
            if isinstance(key, yaml.ScalarNode):
                where = (*path, key.value)
                # Merged entries come first, so the mapping's own keys win.
                values[key.value] = self.convert(loader, item, where)
                self.origins[where] = Origin(self._file, key.start_mark.line + 1)
        return values

    def _interpolate(self, text: str, path: Path, line: int) -> str:
        def replace(match: re.Match[str]) -> str:
            name, default = match["name"], match["default"]
            if name is None:
                return "$"
            value = self._environment.get(name)
            self.variables[name] = value
            if value is not None and _SURROGATE.search(value):
                self._fault(line, path, f"the environment variable {name} is not UTF-8 text")
                return ""
            # As in a shell, ":-" also replaces a variable that is set but empty.
            if default is not None:
                return value or default
            if value is None:
                message = f"the environment variable {name} is not set; set it, or write ${{{name}:-default}}"
                self._fault(line, path, message)
                return ""
            return value

        return _VARIABLE.sub(replace, text)

    def _fault(self, line: int, path: Path, message: str) -> None:
        self.faults.append(Fault(self._file, line, dotted(path), message))
