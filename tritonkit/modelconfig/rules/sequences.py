"""Rules on sequence batching: its controls and its strategies."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tritonkit.modelconfig import protobuf
from tritonkit.modelconfig.rules.rule import Found, Place, Rules, Subject, at

rules = Rules(needs="sequence_batching")

_SEQUENCE: Place = ("sequence_batching",)
_VALUES = ("int32_false_true", "fp32_false_true", "bool_false_true")
_SIGNALS = ("CONTROL_SEQUENCE_START", "CONTROL_SEQUENCE_END", "CONTROL_SEQUENCE_READY")
_IDENTITY = "CONTROL_SEQUENCE_CORRID"
_IDENTITY_TYPES = ("TYPE_UINT64", "TYPE_INT64", "TYPE_UINT32", "TYPE_INT32", "TYPE_STRING")


def _controls(model: Subject, kinds: tuple[str, ...]) -> Iterator[tuple[Any, str, Place]]:
    """Each control of the kinds, with its kind."""
    for number, tensor in enumerate(model.config.sequence_batching.control_input):
        for index, control in enumerate(tensor.control):
            kind = protobuf.enum_name(control, "kind")
            if kind in kinds:
                yield control, kind, (*_SEQUENCE, "control_input", number, "control", index)


def _given(control: Any) -> list[str]:
    return [values for values in _VALUES if getattr(control, values)]


@rules.rule(
    "SEQ01",
    "a control input has no name",
    triton="sequence batching control tensor must have a name for {model}",
    instead="name: START, or as the model calls it",
    early=True,
)
def control_inputs_have_names(model: Subject) -> Iterator[Found]:
    for index, tensor in enumerate(model.config.sequence_batching.control_input):
        if not tensor.name:
            yield at(*_SEQUENCE, "control_input", index)


@rules.rule(
    "SEQ02",
    "the control input '{tensor}' is given twice",
    triton="sequence batching control tensor '{tensor}' is specified for multiple control kinds for {model}",
    instead="one control input for each name",
    early=True,
)
def control_inputs_have_different_names(model: Subject) -> Iterator[Found]:
    seen: set[str] = set()
    for index, tensor in enumerate(model.config.sequence_batching.control_input):
        if tensor.name and tensor.name in seen:
            yield at(*_SEQUENCE, "control_input", index, "name", tensor=tensor.name)
        seen.add(tensor.name)


@rules.rule(
    "SEQ03",
    "the control {kind} is given twice",
    triton="sequence batching specifies multiple {kind} tensors for {model}",
    instead="each kind of control once",
    early=True,
)
def control_kinds_are_given_once(model: Subject) -> Iterator[Found]:
    seen: set[str] = set()
    for _, kind, place in _controls(model, (*_SIGNALS, _IDENTITY)):
        if kind in seen:
            yield at(*place, "kind", kind=kind)
        seen.add(kind)


@rules.rule(
    "SEQ04",
    "the control {kind} says neither what is false nor what is true",
    triton="sequence batching must specify either 'int32_false_true', 'fp32_false_true' or 'bool_false_true' for "
    "{kind} for {model}",
    instead="fp32_false_true: [0, 1], or the same in another type",
    early=True,
)
def signals_have_values(model: Subject) -> Iterator[Found]:
    for control, kind, place in _controls(model, _SIGNALS):
        if not _given(control):
            yield at(*place, kind=kind)


@rules.rule(
    "SEQ05",
    "the control {kind} has values of more than one type",
    triton="sequence batching specifies more than one from 'int32_false_true', 'fp32_false_true' and "
    "'bool_false_true' for {kind} for {model}",
    instead="one of the three",
    early=True,
)
def signals_have_one_type(model: Subject) -> Iterator[Found]:
    for control, kind, place in _controls(model, _SIGNALS):
        given = _given(control)
        if len(given) > 1:
            yield at(*place, given[1], kind=kind)


@rules.rule(
    "SEQ06",
    "the control {kind} has {count} values: one is for false, one for true",
    triton="sequence batching control '{values}' must have exactly 2 entries for {kind} for {model}",
    instead="{values}: [0, 1]",
    early=True,
)
def signals_have_two_values(model: Subject) -> Iterator[Found]:
    for control, kind, place in _controls(model, _SIGNALS):
        given = _given(control)
        if len(given) == 1 and len(getattr(control, given[0])) != 2:
            yield at(*place, given[0], kind=kind, values=given[0], count=len(getattr(control, given[0])))


@rules.rule(
    "SEQ07",
    "the control {kind} carries an identity, and has values for false and true",
    triton="sequence batching must not specify either 'int32_false_true', 'fp32_false_true' or 'bool_false_true' for "
    "{kind} for {model}",
    instead="data_type: TYPE_UINT64, and none of them",
    early=True,
)
def identities_have_no_values(model: Subject) -> Iterator[Found]:
    for control, kind, place in _controls(model, (_IDENTITY,)):
        for given in _given(control)[:1]:
            yield at(*place, given, kind=kind)


@rules.rule(
    "SEQ08",
    "the control {kind} has the data type {type}",
    triton="unexpected data type for control {kind} for {model}. Allowed data types are",
    instead="data_type: TYPE_UINT64, TYPE_INT64, TYPE_UINT32, TYPE_INT32 or TYPE_STRING",
    early=True,
)
def identities_are_numbers_or_strings(model: Subject) -> Iterator[Found]:
    for control, kind, place in _controls(model, (_IDENTITY,)):
        type_name = protobuf.data_type_name(control.data_type)
        if type_name not in _IDENTITY_TYPES and not _given(control):
            yield at(*place, "data_type", kind=kind, type=type_name)


@rules.rule(
    "SEQ09",
    "the preferred batch size {size} is not positive",
    triton="sequence batching preferred batch size must be positive for {model}",
    instead="sizes from 1 to max_batch_size",
    early=True,
)
def preferred_sizes_are_positive(model: Subject) -> Iterator[Found]:
    for index, size in enumerate(model.config.sequence_batching.oldest.preferred_batch_size):
        if size <= 0:
            yield at(*_SEQUENCE, "oldest", "preferred_batch_size", index, size=size)


@rules.rule(
    "SEQ10",
    "the preferred batch size {size} is more than max_batch_size, {most}",
    triton="sequence batching preferred batch size must be <= max batch size for {model}",
    instead="sizes from 1 to max_batch_size, or a greater max_batch_size",
    early=True,
)
def preferred_sizes_are_reached(model: Subject) -> Iterator[Found]:
    for index, size in enumerate(model.config.sequence_batching.oldest.preferred_batch_size):
        if size > 0 and size > model.config.max_batch_size:
            yield at(*_SEQUENCE, "oldest", "preferred_batch_size", index, size=size, most=model.config.max_batch_size)


@rules.rule(
    "SEQ11",
    "the minimum slot utilization is {share}",
    triton="sequence batching minimum slot utilization must be in range (0.0, 1.0] for {model}",
    instead="a share from 0.0 to 1.0",
    early=True,
)
def slot_utilization_is_a_share(model: Subject) -> Iterator[Found]:
    share = model.config.sequence_batching.direct.minimum_slot_utilization
    if share < 0.0 or share > 1.0:
        yield at(*_SEQUENCE, "direct", "minimum_slot_utilization", share=share)
