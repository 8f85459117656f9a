"""Rules on sequence batching: its controls, its strategies, its states."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tritonkit.modelconfig import protobuf
from tritonkit.modelconfig.findings import Severity
from tritonkit.modelconfig.rules.rule import Found, Place, Rules, Subject, at
from tritonkit.modelconfig.rules.warmup import byte_size

rules = Rules()

STATES_FOLDER = "initial_state"

_SEQUENCE: Place = ("sequence_batching",)
_VALUES = ("int32_false_true", "fp32_false_true", "bool_false_true")
_SIGNALS = ("CONTROL_SEQUENCE_START", "CONTROL_SEQUENCE_END", "CONTROL_SEQUENCE_READY")
_IDENTITY = "CONTROL_SEQUENCE_CORRID"
_IDENTITY_TYPES = ("TYPE_UINT64", "TYPE_INT64", "TYPE_UINT32", "TYPE_INT32", "TYPE_STRING")


def _controls(model: Subject, kinds: tuple[str, ...]) -> Iterator[tuple[Any, str, Place]]:
    """Each control of the kinds, with its kind."""
    for number, tensor in enumerate(model.config.sequence_batching.control_input):
        for index, control in enumerate(tensor.control):
            kind = control.Kind.Name(control.kind)
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


def _states(model: Subject) -> Iterator[tuple[Any, Place]]:
    for index, state in enumerate(model.config.sequence_batching.state):
        yield state, (*_SEQUENCE, "state", index)


def _initial(model: Subject) -> Iterator[tuple[Any, Any, Place]]:
    """Each state with its initial value."""
    for state, place in _states(model):
        if len(state.initial_state) == 1:
            yield state, state.initial_state[0], (*place, "initial_state", 0)


@rules.rule(
    "SEQ20",
    "the state '{state}' has {count} initial values",
    triton="initial_state field for state input '{state}' must contain exactly one or zero element. "
    "Found '{count}' elements.",
    instead="one initial_state, or none",
)
def states_begin_once(model: Subject) -> Iterator[Found]:
    for state, place in _states(model):
        if len(state.initial_state) > 1:
            yield at(*place, "initial_state", state=state.input_name, count=len(state.initial_state))


@rules.rule(
    "SEQ21",
    "the state '{state}' is {type}, and its initial value {initial}",
    triton="The data type used for 'initial_state' field of state '{state}' does not match the state data type.",
    instead="the same data_type in both",
)
def initial_values_have_the_type(model: Subject) -> Iterator[Found]:
    for state, initial, place in _initial(model):
        if state.data_type != initial.data_type:
            names = (protobuf.data_type_name(each.data_type) for each in (state, initial))
            type_name, initial_name = names
            yield at(*place, "data_type", state=state.input_name, type=type_name, initial=initial_name)


@rules.rule(
    "SEQ22",
    "the initial value of the state '{state}' has no name",
    triton="Field 'name' must be set when using initial_state for state input '{state}'.",
    instead="name: NAME",
)
def initial_values_have_names(model: Subject) -> Iterator[Found]:
    for state, initial, place in _initial(model):
        if not initial.name:
            yield at(*place, state=state.input_name)


@rules.rule(
    "SEQ23",
    "the state '{state}' has an initial value in two places",
    triton="State input name '{state}' specified more than once.",
    instead="each input_name once",
)
def initial_values_are_given_once(model: Subject) -> Iterator[Found]:
    seen: set[str] = set()
    for state, _, place in _initial(model):
        if state.input_name in seen:
            yield at(*place, state=state.input_name)
        seen.add(state.input_name)


@rules.rule(
    "SEQ24",
    "the state '{state}' has {count} dims, and its initial value {found}",
    triton="Number of dimensions in 'initial_state' doesn't match the size of 'state' dimensions for state input "
    "'{state}'. {found} != {count}",
    instead="as many dims in both",
)
def initial_values_have_the_rank(model: Subject) -> Iterator[Found]:
    for state, initial, place in _initial(model):
        if len(state.dims) != len(initial.dims):
            yield at(*place, "dims", state=state.input_name, count=len(state.dims), found=len(initial.dims))


@rules.rule(
    "SEQ25",
    "the initial value of the state '{state}' has a dimension that varies",
    triton="'initial_state' field for state input name '{state}' contains variable dimensions.",
    instead="a size in the place of -1",
)
def initial_values_have_sizes(model: Subject) -> Iterator[Found]:
    for state, initial, place in _initial(model):
        if len(state.dims) == len(initial.dims) and -1 in initial.dims:
            yield at(*place, "dims", state=state.input_name)


@rules.rule(
    "SEQ26",
    "the state '{state}' has dims {dims}, and its initial value {found}",
    triton="'initial_state' dim for input name '{state}' doesn't match 'state' dim description.",
    instead="the same dims in both; any size where the state has -1",
)
def initial_values_have_the_dims(model: Subject) -> Iterator[Found]:
    for state, initial, place in _initial(model):
        if len(state.dims) == len(initial.dims) and any(
            -1 not in pair and pair[0] != pair[1] for pair in zip(state.dims, initial.dims, strict=True)
        ):
            words = {"state": state.input_name, "dims": list(state.dims), "found": list(initial.dims)}
            yield at(*place, "dims", **words)


@rules.rule(
    "SEQ27",
    "the initial value of the state '{state}' has no data",
    triton="initial_state setting expects state'{state}' to have state_data set",
    instead="zero_data: true, or data_file: NAME",
)
def initial_values_have_data(model: Subject) -> Iterator[Found]:
    for state, initial, place in _initial(model):
        if initial.WhichOneof("state_data") is None:
            yield at(*place, state=state.input_name)


@rules.rule(
    "SEQ28",
    "the file '{file}' is not in the model's folder '{folder}'",
    triton="failed to open text file",
    instead="a file in the folder 'initial_state' of the model",
)
def initial_files_are_there(model: Subject) -> Iterator[Found]:
    for _, initial, place in _initial(model):
        file = initial.data_file
        if initial.HasField("data_file") and model.files is not None and f"{STATES_FOLDER}/{file}" not in model.files:
            yield at(*place, "data_file", file=file, folder=STATES_FOLDER)


@rules.rule(
    "SEQ29",
    "the initial value of the state '{state}' needs {size} bytes, and '{file}' has {found}",
    triton="initial_state setting expects {size} bytes, but the data provided from {file}only has {found} bytes.",
    instead="a file of {size} bytes",
)
def initial_files_are_long_enough(model: Subject) -> Iterator[Found]:
    for state, initial, place in _initial(model):
        found = (model.files or {}).get(f"{STATES_FOLDER}/{initial.data_file}")
        size = byte_size(initial.data_type, initial.dims)
        if found is not None and initial.data_type != protobuf.data_type("TYPE_STRING") and size > found:
            words = {"state": state.input_name, "size": size, "found": found, "file": initial.data_file}
            yield at(*place, "data_file", **words)


@rules.rule(
    "SEQ30",
    "the model keeps implicit state, which backends in Triton's Python stub get silently wrong",
    instead="keep the state in the model itself, by correlation id, or serve with the native backend",
    severity=Severity.WARNING,
)
def states_are_for_native_backends(model: Subject) -> Iterator[Found]:
    python = model.normal.backend == "python" or model.machine.python_based
    if python and model.config.sequence_batching.state:
        yield at(*_SEQUENCE, "state")
