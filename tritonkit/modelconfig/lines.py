"""The line of a config.pbtxt that each value stands on."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from tritonkit.modelconfig import protobuf

Place = tuple[str | int, ...]

_TOKEN = re.compile(
    r"""(?P<blank>\s+|\#[^\n]*)
    | (?P<word>"(?:\\.|[^"\\\n])*" | '(?:\\.|[^'\\\n])*' | [A-Za-z_][\w.]* | [-+.0-9][\w.+-]*)
    | (?P<sign>.)""",
    re.VERBOSE,
)
_CLOSING = {"{": "}", "<": ">"}
_END = ""


class _Token(NamedTuple):
    text: str
    line: int


def lines_of(text: str) -> Mapping[Place, int]:
    """The line of every field of a text, by its place in the message: ``("input", 0, "dims", 1)``.

    Args:
        text: a text that can be parsed as a ModelConfig. Of any other, something is returned too.
    """
    reader = _Reader(_tokens(text))
    reader.message(protobuf.empty().DESCRIPTOR, (), _END)
    return reader.lines


def line_at(lines: Mapping[Place, int], place: Place) -> int:
    """The line of a place, or of what it is part of; 1 where nothing of it is written."""
    return next((lines[place[:end]] for end in range(len(place), 0, -1) if place[:end] in lines), 1)


def _tokens(text: str) -> Iterator[_Token]:
    line = 1
    for match in _TOKEN.finditer(text):
        if match.lastgroup != "blank":
            yield _Token(match.group(), line)
        line += match.group().count("\n")


class _Reader:
    def __init__(self, tokens: Iterator[_Token]) -> None:
        self.lines: dict[Place, int] = {}
        self._tokens = tokens
        self._token = _Token(_END, 1)
        self._advance()

    def _advance(self) -> _Token:
        token = self._token
        self._token = next(self._tokens, _Token(_END, token.line))
        return token

    def _skip(self, text: str) -> bool:
        if self._token.text != text:
            return False
        self._advance()
        return True

    def message(self, descriptor: Any, place: Place, closing: str) -> None:
        """The fields up to the closing sign."""
        counts: dict[str, int] = {}
        while self._token.text not in (closing, _END):
            name, line = self._advance()
            if name in (",", ";"):
                continue
            field = descriptor.fields_by_name.get(name) if descriptor is not None else None
            where = (*place, name)
            self.lines.setdefault(where, line)
            self._skip(":")
            if not self._skip("["):
                self._value(field, where, line, counts)
                continue
            while self._token.text not in ("]", _END):
                if not self._skip(","):
                    self._value(field, where, self._token.line, counts)
            self._advance()
        self._advance()

    def _value(self, field: Any, place: Place, line: int, counts: dict[str, int]) -> None:
        kind = field.message_type if field is not None else None
        closing = _CLOSING.get(self._token.text)
        if kind is not None and kind.GetOptions().map_entry and closing:
            self._advance()
            self._entry(kind, place, closing)
            return
        if field is not None and field.is_repeated:
            counts[field.name] = counts.get(field.name, -1) + 1
            place = (*place, counts[field.name])
            self.lines[place] = line
        if closing:
            self._advance()
            self.message(kind, place, closing)
        elif self._advance().text[:1] in ("'", '"'):
            # Strings that follow one another are one.
            while self._token.text[:1] in ("'", '"'):
                self._advance()

    def _entry(self, kind: Any, place: Place, closing: str) -> None:
        """A map's entry, which stands under its key."""
        value = kind.fields_by_name["value"]
        while self._token.text not in (closing, _END):
            name, line = self._advance()
            self._skip(":")
            if name == "key":
                place = (*place, _key(self._advance().text))
                self.lines[place] = line
            elif self._token.text in _CLOSING:
                self.message(value.message_type, place, _CLOSING[self._advance().text])
            else:
                self._advance()
        self._advance()


def _key(text: str) -> str | int:
    if text[:1] in ("'", '"'):
        try:
            return str(ast.literal_eval(text))
        except (SyntaxError, ValueError):
            return text[1:-1]
    return int(text) if text.isdigit() else text
