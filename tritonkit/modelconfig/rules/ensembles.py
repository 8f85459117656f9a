"""Rules on the steps of one ensemble, whatever models they run."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tritonkit.modelconfig.platforms import ENSEMBLE
from tritonkit.modelconfig.rules.rule import Found, Place, Rules, Subject, at

rules = Rules(early=True)

_STEPS: Place = ("ensemble_scheduling", "step")


@rules.rule(
    "ENS01",
    "a model with steps is an ensemble, and this one has the platform '{platform}'",
    triton="ensemble scheduling cannot be set for model '{model}' whose platform is not ensemble",
    instead="platform: ensemble, and no 'backend'",
)
def steps_make_an_ensemble(model: Subject) -> Iterator[Found]:
    if model.is_ensemble and model.normal.platform != ENSEMBLE:
        yield at("platform" if model.config.platform else "ensemble_scheduling", platform=model.normal.platform)


@rules.rule(
    "ENS02",
    "an ensemble has steps, and this one has none",
    triton="ensemble scheduling must be set for ensemble {model} whose platform is ensemble",
    instead="ensemble: a list of steps",
)
def ensembles_have_scheduling(model: Subject) -> Iterator[Found]:
    if model.normal.platform == ENSEMBLE and not model.normal.backend and not model.is_ensemble:
        yield at("platform")


@rules.rule(
    "ENS03",
    "an ensemble has no instances of its own",
    triton="instance group should not be specified for ensemble '{model}'",
    instead="leave 'instance_group' out; the steps' models have theirs",
)
def ensembles_have_no_instances(model: Subject) -> Iterator[Found]:
    if model.is_ensemble and model.config.instance_group:
        yield at("instance_group")


@rules.rule(
    "ENS04",
    "an ensemble has nothing to optimize",
    triton="optimization should not be specified for ensemble '{model}'",
    instead="leave 'optimization' out",
)
def ensembles_have_no_optimization(model: Subject) -> Iterator[Found]:
    if model.is_ensemble and model.config.HasField("optimization"):
        yield at("optimization")


@rules.rule(
    "ENS05",
    "an ensemble is not warmed up; its models are",
    triton="model_warmup can not be specified for ensemble '{model}'",
    instead="leave 'model_warmup' out",
)
def ensembles_are_not_warmed_up(model: Subject) -> Iterator[Found]:
    if model.is_ensemble and model.config.model_warmup:
        yield at("model_warmup")


@rules.rule(
    "ENS06",
    "the ensemble has no steps",
    triton="must specify 'step' for ensemble '{model}'",
    instead="ensemble: a list of steps, each with model, input and output",
)
def ensembles_have_steps(model: Subject) -> Iterator[Found]:
    if model.is_ensemble and not model.config.ensemble_scheduling.step:
        yield at("ensemble_scheduling")


def steps(model: Subject) -> Iterator[tuple[int, Any, Place]]:
    """The steps, with number and place."""
    if model.is_ensemble:
        for index, step in enumerate(model.config.ensemble_scheduling.step):
            yield index, step, (*_STEPS, index)


@rules.rule(
    "ENS07",
    "step {step} names no model",
    triton="must specify 'model_name' in step {step} of ensemble '{model}'",
    instead="model: NAME",
)
def steps_name_models(model: Subject) -> Iterator[Found]:
    for index, step, place in steps(model):
        if not step.model_name:
            yield at(*place, step=index)


@rules.rule(
    "ENS08",
    "step {step} reads nothing",
    triton="must specify 'input_map' in step {step} of ensemble '{model}'",
    instead="input: {{THE_MODELS_NAME: THE_ENSEMBLES_TENSOR}}",
)
def steps_read(model: Subject) -> Iterator[Found]:
    for index, step, place in steps(model):
        if not step.input_map:
            yield at(*place, "input_map", step=index)


@rules.rule(
    "ENS09",
    "step {step} writes nothing",
    triton="must specify 'output_map' in step {step} of ensemble '{model}'",
    instead="output: {{THE_MODELS_NAME: THE_ENSEMBLES_TENSOR}}",
)
def steps_write(model: Subject) -> Iterator[Found]:
    for index, step, place in steps(model):
        if not step.output_map:
            yield at(*place, "output_map", step=index)


@rules.rule(
    "ENS10",
    "the tensor '{tensor}' is written twice, the second time in step {step}",
    triton="ensemble tensor '{tensor}' can appear in an output map only once for ensemble '{model}' step {step}",
    instead="another name for one of the two",
)
def tensors_are_written_once(model: Subject) -> Iterator[Found]:
    written: set[str] = set()
    for index, step, place in steps(model):
        for name in sorted(step.output_map):
            tensor = step.output_map[name]
            if tensor in written:
                yield at(*place, "output_map", name, tensor=tensor, step=index)
            written.add(tensor)


@rules.rule(
    "ENS11",
    "no step reads the ensemble's input '{tensor}'",
    triton="ensemble input '{tensor}' for ensemble {model}",
    instead="leave the input out, or let a step read it",
)
def inputs_are_read(model: Subject) -> Iterator[Found]:
    if not _whole(model):
        return
    tensors = _read(model) | _written(model)
    for index, tensor in enumerate(model.config.input):
        if tensor.name not in tensors:
            yield at("input", index, tensor=tensor.name)


@rules.rule(
    "ENS12",
    "no step writes the ensemble's output '{tensor}'",
    triton="ensemble output '{tensor}' for ensemble {model}",
    instead="leave the output out, or let a step write it",
)
def outputs_are_known(model: Subject) -> Iterator[Found]:
    if not _whole(model):
        return
    tensors = _read(model) | _written(model)
    for index, tensor in enumerate(model.config.output):
        if tensor.name not in tensors:
            yield at("output", index, tensor=tensor.name)


@rules.rule(
    "ENS13",
    "the ensemble's output '{tensor}' is never written: what it is made from does not all come from inputs",
    triton="output '{tensor}' for ensemble '{model}' is not written",
    instead="let every step read tensors that are inputs, or that an earlier step writes; no step may wait for itself",
)
def outputs_are_written(model: Subject) -> Iterator[Found]:
    if not _whole(model):
        return
    tensors, ready = _read(model) | _written(model), _ready(model)
    for index, tensor in enumerate(model.config.output):
        if tensor.name in tensors and tensor.name not in ready:
            yield at("output", index, tensor=tensor.name)


@rules.rule(
    "ENS14",
    "the tensor '{tensor}' leads nowhere: {why}",
    triton="ensemble tensor '{tensor}' is unused in ensemble '{model}'",
    instead="leave it out of the step's output, or read it, or make it an output of the ensemble",
)
def tensors_are_used(model: Subject) -> Iterator[Found]:
    if not _whole(model):
        return
    outputs = {tensor.name for tensor in model.config.output}
    ready, read = _ready(model), _read(model)
    told: set[str] = set()
    for _, step, place in steps(model):
        for side in ("input_map", "output_map"):
            mapped = getattr(step, side)
            for name in sorted(mapped):
                tensor = mapped[name]
                if tensor in outputs or tensor in told or (tensor in ready and tensor in read):
                    continue
                told.add(tensor)
                why = "no step reads it" if tensor not in read else "it is neither an input nor written in time"
                yield at(*place, side, name, tensor=tensor, why=why)


def _whole(model: Subject) -> bool:
    """Whether every step is complete, so that the flow of tensors can be followed."""
    return model.is_ensemble and all(
        step.model_name and step.input_map and step.output_map for _, step, _ in steps(model)
    )


def _read(model: Subject) -> set[str]:
    return {tensor for _, step, _ in steps(model) for tensor in step.input_map.values()}


def _written(model: Subject) -> set[str]:
    return {tensor for _, step, _ in steps(model) for tensor in step.output_map.values()}


def _ready(model: Subject) -> set[str]:
    """The tensors that come to be, from the inputs on."""
    ready = {tensor.name for tensor in model.config.input}
    waiting = [(set(step.input_map.values()), set(step.output_map.values())) for _, step, _ in steps(model)]
    grown = True
    while grown:
        grown = False
        for read, written in waiting:
            if read <= ready and not written <= ready:
                ready |= written
                grown = True
    return ready
