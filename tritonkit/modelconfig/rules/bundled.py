"""What tritonkit's own Python-based backends refuse, where the native ones would not."""

from __future__ import annotations

from collections.abc import Iterator

from tritonkit.modelconfig.rules.rule import Found, Rules, Subject, at

rules = Rules()

_COUNTS = ("intra_op_thread_count", "inter_op_thread_count", "execution_mode")


def _own(model: Subject) -> bool:
    return bool(model.machine.python_based) and model.normal.backend == "onnxruntime"


@rules.rule(
    "BND01",
    "the model keeps implicit state, which tritonkit's onnxruntime backend does not",
    triton="implicit state (sequence_batching.state) is not kept by a Python-based backend",
    instead="no 'state', or serve with the native backend",
)
def states_are_not_kept(model: Subject) -> Iterator[Found]:
    if _own(model) and model.config.sequence_batching.state:
        yield at("sequence_batching", "state")


@rules.rule(
    "BND02",
    "execution accelerators are named, which tritonkit's onnxruntime backend has not: {names}",
    triton="execution accelerators are not supported here: {names}",
    instead="no 'execution_accelerators', or serve with the native backend",
)
def accelerators_are_native(model: Subject) -> Iterator[Found]:
    accelerators = model.config.optimization.execution_accelerators
    named = [*accelerators.gpu_execution_accelerator, *accelerators.cpu_execution_accelerator]
    if _own(model) and named:
        names = ", ".join(accelerator.name for accelerator in named)
        yield at("optimization", "execution_accelerators", names=names)


@rules.rule(
    "BND03",
    "the parameter {name} is '{value}'",
    triton="parameter {name}: expected a whole number from 0, got",
    instead="a whole number from 0",
)
def counts_are_numbers(model: Subject) -> Iterator[Found]:
    for name in _COUNTS:
        if _own(model) and name in model.config.parameters:
            value = model.config.parameters[name].string_value
            if not value.isdecimal():
                yield at("parameters", name, name=name, value=value)


@rules.rule(
    "BND04",
    "the parameter own_process is '{value}'",
    triton='parameter own_process: expected "true" or "false", got',
    instead='"true" or "false"',
)
def own_process_is_on_or_off(model: Subject) -> Iterator[Found]:
    if _own(model) and "own_process" in model.config.parameters:
        value = model.config.parameters["own_process"].string_value
        if value.lower() not in {"true", "false", "1", "0"}:
            yield at("parameters", "own_process", value=value)
