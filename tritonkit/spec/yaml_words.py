"""YAML as specs are written in: the safe loader, the words that it knows, and how deep it goes."""

from __future__ import annotations

import re
from typing import Any

import yaml

from tritonkit.errors import Fault, SpecError

MAX_DEPTH = 100
"""Deeper nesting is refused before the parser's own recursion can exhaust the stack."""

TAG = "tag:yaml.org,2002:"
_NUMBERS_AND_SWITCHES = frozenset(f"{TAG}{name}" for name in ("int", "float", "bool"))


class Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """The safe loader, with YAML 1.2's booleans and numbers.

    ``on``, ``off``, ``yes`` and ``no`` are words, as are dates, and ``1:16:2``, which YAML 1.1 takes for 4,562.
    """


def _without_colons(tag: str, pattern: re.Pattern[str]) -> re.Pattern[str]:
    numbers = (f"{TAG}int", f"{TAG}float")
    return re.compile(f"(?!.*:)(?:{pattern.pattern})", pattern.flags) if tag in numbers else pattern


Loader.yaml_implicit_resolvers = {
    first: [
        (tag, _without_colons(tag, pattern))
        for tag, pattern in resolvers
        if tag not in (f"{TAG}bool", f"{TAG}timestamp")
    ]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
Loader.add_implicit_resolver(f"{TAG}bool", re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF"))


def refuse_deep_nesting(file: str, text: str) -> None:
    """Refuse a document that composing would exhaust the stack with.

    Raises:
        SpecError: it is nested deeper than ``MAX_DEPTH``.
    """
    # Composing recurses in C, where too deep a document ends the process; events come one by one.
    depth = 0
    for event in yaml.parse(text, Loader=Loader):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > MAX_DEPTH:
                line = event.start_mark.line + 1 if event.start_mark else 0
                raise SpecError([Fault(file, line, "", f"nested deeper than {MAX_DEPTH} levels")])
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1


def plain_value(loader: Any, text: str) -> Any:
    """A plain word as the loader reads it where it is a number, ``true`` or ``false``; else the word."""
    tag = loader.resolve(yaml.ScalarNode, text, (True, False))
    if tag not in _NUMBERS_AND_SWITCHES:
        return text
    try:
        return loader.construct_object(yaml.ScalarNode(tag, text))
    except ValueError:
        return text
