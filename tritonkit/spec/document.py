"""One YAML file, read safely, with the line that every value stands on."""

from __future__ import annotations

import re
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path as FilePath
from typing import Any

import yaml

from tritonkit.errors import Fault, SpecError
from tritonkit.spec.faults import Origin, Path, dotted, shown
from tritonkit.spec.yaml_words import MAX_DEPTH, TAG, Loader, plain_value, refuse_deep_nesting

DEFAULT_SPEC = "spec.yaml"
"""The spec that is looked for in the working directory where none is named."""

DEFAULT_REPOSITORY = "model_repository"
"""Where the repository goes if the spec does not say, relative to it."""

MAX_BYTES = 8 * 1024 * 1024
"""Larger files are refused unread: a spec of 1,000 models is about 300 kB."""

MAX_VALUES = 1_000_000
"""More values than this are refused: a few nested anchors can expand without bound."""

_VARIABLE = re.compile(r"\$(?:\$|\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?::-(?P<default>[^}]*))?\})")
# What Python makes of bytes in the environment that are no text.
_SURROGATE = re.compile("[\ud800-\udfff]")
_SCALARS = frozenset(f"{TAG}{name}" for name in ("str", "int", "float", "bool", "null", "binary"))
_COLLECTIONS = frozenset(f"{TAG}{name}" for name in ("map", "seq"))
_MERGE = f"{TAG}merge"
_Entry = tuple[yaml.ScalarNode, yaml.Node]


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

    In its strings ``${NAME}`` and ``${NAME:-default}`` stand for values of ``environment``, and ``$$`` for ``$``. A
    plain string that becomes a number, ``true`` or ``false`` that way is one; in quotes it stays a string.

    Raises:
        SpecError: not a readable file, too large, not UTF-8, not YAML, duplicate keys, an unset variable, or no
            mapping at the top. Every fault that can be found in one pass is reported.
    """
    file = str(path)
    reader = _Reader(file, environment)
    value = reader.read(text_of(path), ())
    if value is None:
        raise SpecError([Fault(file, 0, "", "the file is empty; expected a mapping with 'version' and 'models'")])
    if not isinstance(value, dict):
        found = shown(value)
        raise SpecError([Fault(file, 1, "", f"expected a mapping with 'version' and 'models', found {found}")])
    return Document(file, value, reader.origins, reader.variables)


def read_value(text: str, name: str, path: Path, environment: Mapping[str, str]) -> Document:
    """Read one value that is written outside a file, by the rules for files.

    Args:
        text: the value, as YAML; None where it is empty.
        name: what faults call the place that it was written in.
        path: where the value goes in the spec.
        environment: where ``${NAME}`` is looked up.

    Returns:
        A document whose ``value`` may be any plain value; its places have no line.

    Raises:
        SpecError: as ``read``, whatever the value is.
    """
    reader = _Reader(name, environment)
    try:
        value = reader.read(text, path)
    except SpecError as error:
        faults = [Fault(name, 0, fault.path or dotted(path), fault.message) for fault in error.faults]
        raise SpecError(faults, hint=error.hint) from None
    return Document(name, value, {where: Origin(name, 0) for where in reader.origins}, reader.variables)


def text_of(path: FilePath) -> str:
    """The text of a spec's file.

    Raises:
        SpecError: not a readable file, too large, or not UTF-8.
    """
    file = str(path)
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            raise SpecError([Fault(file, 0, "", "this is a directory; expected a YAML file")])
        if not stat.S_ISREG(status.st_mode):
            # A spec is read more than once, and a device may have no end.
            raise SpecError([Fault(file, 0, "", "a pipe or a device; expected a regular file")])
        with path.open("rb") as stream:
            content = stream.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            message = f"the file has {max(status.st_size, len(content)):,} bytes; a spec may have {MAX_BYTES:,}"
            raise SpecError([Fault(file, 0, "", message)])
        return content.decode("utf-8-sig")
    except FileNotFoundError:
        # Who named a file has one, elsewhere or by another name; who named none may have no project yet.
        hint = "tritonkit init digits makes a project with one" if path == FilePath(DEFAULT_SPEC) else None
        raise SpecError([Fault(file, 0, "", "no such file")], hint=hint) from None
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


class _Reader:
    """Turns the nodes of one file into values, remembering the line of each."""

    def __init__(self, file: str, environment: Mapping[str, str]) -> None:
        self.faults: list[Fault] = []
        self.origins: dict[Path, Origin] = {}
        self.variables: dict[str, str | None] = {}
        self._file = file
        self._environment = environment
        self._open: set[int] = set()
        self._flattened: dict[int, dict[str, _Entry] | None] = {}
        self._merged = 0

    def read(self, text: str, path: Path) -> Any:
        """The one value of a text, whose place is ``path``; None of an empty text.

        Raises:
            SpecError: not YAML, or a fault in a value.
        """
        with _syntax_faults(self._file):
            refuse_deep_nesting(self._file, text)
            loader = Loader(text)
            try:
                node = loader.get_single_node()
                value = None if node is None else self._convert(loader, node, path)
            finally:
                loader.dispose()
        if self.faults:
            raise SpecError(self.faults)
        return value

    def _convert(self, loader: Any, node: yaml.Node, path: Path) -> Any:
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
                return [self._convert(loader, item, (*path, index)) for index, item in enumerate(node.value)]
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
            self._fault(line, path, f"cannot be read as {node.tag.removeprefix(TAG)}: {node.value!r:.60}")
            return None
        if not isinstance(value, str) or "$" not in value:
            return value
        text = self._interpolate(value, path, line)
        # As if it had been written there: a plain word may be a number, a quoted one stays text.
        return text if node.style or text == value else plain_value(loader, text)

    def _mapping(self, loader: Any, node: yaml.Node, path: Path) -> dict[str, Any]:
        seen: dict[str, int] = {}
        for key, _ in node.value:
            line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode):
                self._fault(line, path, "a key must be a word or a number")
            elif key.tag != _MERGE and key.value in seen:
                where = (*path, key.value)
                self._fault(line, where, f"given twice; it first stands on line {seen[key.value]}")
            else:
                seen[key.value] = line
        values: dict[str, Any] = {}
        for word, (key, item) in self._entries(node, path, 0).items():
            where = (*path, word)
            values[word] = self._convert(loader, item, where)
            self.origins[where] = Origin(self._file, key.start_mark.line + 1)
        return values

    def _entries(self, node: yaml.Node, path: Path, depth: int) -> dict[str, _Entry]:
        """The entries of a mapping, those that it merges first: its own win. The parser's own way has no bound."""
        line = node.start_mark.line + 1
        if id(node) in self._flattened:
            known = self._flattened[id(node)]
            if known is None:
                self._fault(line, path, "an anchor that contains itself")
            return known or {}
        if depth > MAX_DEPTH:
            raise SpecError([Fault(self._file, line, dotted(path), f"merges more than {MAX_DEPTH} levels")])
        self._flattened[id(node)] = None
        merged: dict[str, _Entry] = {}
        own: dict[str, _Entry] = {}
        for key, item in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            if key.tag != _MERGE:
                own[key.value] = (key, item)
                continue
            # Of several mappings in a list the first wins.
            for each in reversed(item.value) if isinstance(item, yaml.SequenceNode) else [item]:
                if not isinstance(each, yaml.MappingNode):
                    self._fault(line, path, "expected a mapping, or a list of mappings, to merge")
                    continue
                entries = self._entries(each, path, depth + 1)
                self._merged += len(entries) + 1
                if self._merged > MAX_VALUES:
                    raise SpecError([Fault(self._file, line, dotted(path), f"merges more than {MAX_VALUES:,} values")])
                merged.update(entries)
        entries = {**merged, **own}
        self._flattened[id(node)] = entries
        return entries

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
