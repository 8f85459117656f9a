"""ModelConfig as config.pbtxt, through a Jinja2 template, proved by reading it back."""

from __future__ import annotations

import io
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
from google.protobuf import text_format
from google.protobuf.message import Message

from tritonkit.errors import Fault, SpecError
from tritonkit.modelconfig import protobuf
from tritonkit.resources import CONFIG_TEMPLATE, templates_directory

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
        templates: a folder of templates that go before tritonkit's own, which they may include or extend as
            ``tritonkit/config.pbtxt.j2``.

    Raises:
        SpecError: a template is none.
    """

    def __init__(self, origin: str, templates: Path | None = None) -> None:
        self._origin = origin
        own = jinja2.FileSystemLoader(templates_directory())
        folders = ([templates] if templates else []) + [templates_directory()]
        self._file = next(folder / CONFIG_TEMPLATE for folder in folders if (folder / CONFIG_TEMPLATE).is_file())
        environment = jinja2.Environment(
            loader=jinja2.ChoiceLoader([jinja2.FileSystemLoader(folders), jinja2.PrefixLoader({"tritonkit": own})]),
            undefined=jinja2.StrictUndefined,
            keep_trailing_newline=True,
            autoescape=False,  # noqa: S701 - the text is a protobuf, not a page
        )
        environment.filters["ordered"] = _ordered
        try:
            self._template = environment.get_template(CONFIG_TEMPLATE)
        except (jinja2.TemplateError, UnicodeDecodeError) as error:
            raise self._failure(error) from error

    def render(self, config: Any) -> str:
        """The text of a ModelConfig; reading it back gives an equal message.

        Raises:
            SpecError: the template fails, or its text says something else than ``config``.
        """
        try:
            text = self._template.render(origin=self._origin, fields=_view(config, _ALWAYS_SHOWN))
        except Exception as error:
            # A template is a program of the user's: it may fail in every way that Python knows.
            raise self._failure(error) from error
        try:
            said = parse(text)
        except text_format.ParseError as error:
            message = f"the template's text for '{config.name}' is no ModelConfig: {error}"
            raise SpecError([Fault(str(self._file), 0, "", message)]) from error
        if not same(said, config):
            names = ", ".join(_different(said, config))
            message = f"the template's text for '{config.name}' says something else than the spec in: {names}"
            raise SpecError([Fault(str(self._file), 0, "", message)])
        return text

    def _failure(self, error: Exception) -> SpecError:
        line = getattr(error, "lineno", None) or 0
        file = getattr(error, "filename", None) or str(self._file)
        words = str(error) if isinstance(error, jinja2.TemplateError) else f"{type(error).__name__}: {error}"
        if isinstance(error, jinja2.TemplateNotFound):
            words = f"there is no template '{error.name}'"
        return SpecError([Fault(file, line, "", f"the template fails: {words}")])


def same(one: Message, other: Message) -> bool:
    """Whether two ModelConfigs are equal; numbers that are no numbers (NaN) are equal to each other here."""
    return one == other or _bytes(one) == _bytes(other)


def _bytes(message: Message) -> bytes:
    return message.SerializeToString(deterministic=True)


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
        items = [(literal(key_field, key), _field(item_field, value[key])) for key in sorted(value)]
        return Field(field.name, "map", items)
    if field.is_repeated:
        if message_type is not None:
            return Field(field.name, "messages", [_view(item) for item in value])
        return Field(field.name, "list", [literal(field, item) for item in value])
    if message_type is not None:
        return Field(field.name, "message", _view(value))
    return Field(field.name, "scalar", literal(field, value))


def literal(field: Any, value: Any) -> str:
    """A scalar as a config.pbtxt says it."""
    text = io.StringIO()
    text_format.PrintFieldValue(field, value, text, as_utf8=True)
    return text.getvalue()
