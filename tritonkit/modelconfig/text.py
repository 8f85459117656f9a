"""ModelConfig as config.pbtxt, through a Jinja2 template, proved by reading it back."""

from __future__ import annotations

import io
from collections.abc import Iterable
from typing import Any, NamedTuple

import jinja2
from google.protobuf import text_format
from google.protobuf.message import Message

from tritonkit.errors import Fault, SpecError
from tritonkit.modelconfig import protobuf
from tritonkit.resources import templates_directory

TEMPLATE = "config.pbtxt.j2"

# proto3 drops a field that has its default, but "no batching" should be read, not guessed.
_ALWAYS_SHOWN = ("max_batch_size",)


class Field(NamedTuple):
    """One set field, as the template sees it; the template says what each kind's value is."""

    name: str
    kind: str
    value: Any


class Renderer:
    """Renders many models with one compiled template.

    Args:
        origin: words for the first line of each file, as in ``from spec.yaml``.
    """

    def __init__(self, origin: str) -> None:
        self._origin = origin
        self._file = templates_directory() / TEMPLATE
        environment = jinja2.Environment(
            loader=jinja2.FileSystemLoader(templates_directory()),
            undefined=jinja2.StrictUndefined,
            keep_trailing_newline=True,
            autoescape=False,  # noqa: S701 - the text is a protobuf, not a page
        )
        environment.filters["ordered"] = _ordered
        self._template = environment.get_template(TEMPLATE)

    def render(self, config: Any) -> str:
        """The text of a ModelConfig; reading it back gives an equal message.

        Raises:
            SpecError: the template fails, or its text says something else than ``config``.
        """
        try:
            text = self._template.render(origin=self._origin, fields=_view(config, _ALWAYS_SHOWN))
        except jinja2.TemplateError as error:
            line = getattr(error, "lineno", None) or 0
            raise SpecError([Fault(str(self._file), line, "", f"the template fails: {error}")]) from error
        try:
            said = parse(text)
        except text_format.ParseError as error:
            message = f"the template's text for '{config.name}' is no ModelConfig: {error}"
            raise SpecError([Fault(str(self._file), 0, "", message)]) from error
        if said != config:
            names = ", ".join(_different(said, config))
            message = f"the template's text for '{config.name}' says something else than the spec in: {names}"
            raise SpecError([Fault(str(self._file), 0, "", message)])
        return text


def parse(text: str) -> Any:
    """The ModelConfig that a config.pbtxt says.

    Raises:
        google.protobuf.text_format.ParseError: the text is no ModelConfig; the message has line and column.
    """
    return text_format.Parse(text, protobuf.empty())


def _different(said: Message, meant: Message) -> list[str]:
    return [
        field.name
        for field in meant.DESCRIPTOR.fields
        if getattr(said, field.name) != getattr(meant, field.name)
        or (field.has_presence and said.HasField(field.name) != meant.HasField(field.name))
    ]


def _ordered(fields: Iterable[Field], *first: str) -> list[Field]:
    place = {name: index for index, name in enumerate(first)}
    return sorted(fields, key=lambda field: place.get(field.name, len(first)))


def _view(message: Message, always: tuple[str, ...] = ()) -> list[Field]:
    present = {field.name: value for field, value in message.ListFields()}
    return [
        _field(field, present.get(field.name, getattr(message, field.name)))
        for field in message.DESCRIPTOR.fields
        if field.name in present or field.name in always
    ]


def _field(field: Any, value: Any) -> Field:
    message_type = field.message_type
    if message_type is not None and message_type.GetOptions().map_entry:
        key_field, item_field = (message_type.fields_by_name[part] for part in ("key", "value"))
        # Sorted, since a map has no order of its own and the text must be the same at every build.
        items = [(_literal(key_field, key), _field(item_field, value[key])) for key in sorted(value)]
        return Field(field.name, "map", items)
    if field.is_repeated:
        if message_type is not None:
            return Field(field.name, "messages", [_view(item) for item in value])
        return Field(field.name, "list", [_literal(field, item) for item in value])
    if message_type is not None:
        return Field(field.name, "message", _view(value))
    return Field(field.name, "scalar", _literal(field, value))


def _literal(field: Any, value: Any) -> str:
    text = io.StringIO()
    text_format.PrintFieldValue(field, value, text, as_utf8=True)
    return text.getvalue()
