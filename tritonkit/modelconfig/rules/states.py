"""Rules on the states that Triton keeps for a sequence."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tritonkit.modelconfig import protobuf
from tritonkit.modelconfig.findings import Severity
from tritonkit.modelconfig.rules.rule import Found, Place, Rules, Subject, at
from tritonkit.modelconfig.rules.warmup import byte_size

rules = Rules(needs="sequence_batching")

FOLDER = "initial_state"

_SEQUENCE: Place = ("sequence_batching",)


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
        if initial.HasField("data_file") and model.files is not None and f"{FOLDER}/{file}" not in model.files:
            yield at(*place, "data_file", file=file, folder=FOLDER)


@rules.rule(
    "SEQ29",
    "the initial value of the state '{state}' needs {size} bytes, and '{file}' has {found}",
    triton="initial_state setting expects {size} bytes, but the data provided from {file}only has {found} bytes.",
    instead="a file of {size} bytes",
)
def initial_files_are_long_enough(model: Subject) -> Iterator[Found]:
    for state, initial, place in _initial(model):
        found = (model.files or {}).get(f"{FOLDER}/{initial.data_file}")
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
