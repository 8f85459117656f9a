"""Rules on an ensemble and the models that its steps run."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from tritonkit.errors import nearest
from tritonkit.modelconfig import protobuf
from tritonkit.modelconfig.rules.ensembles import steps
from tritonkit.modelconfig.rules.identity import served_versions
from tritonkit.modelconfig.rules.rule import Fleet, Found, Place, Rules, Subject, at
from tritonkit.modelconfig.rules.tensors import completed

rules = Rules(needs="ensemble_scheduling")


def members(model: Subject, fleet: Fleet) -> Iterator[tuple[int, Any, Place, Subject]]:
    """The steps whose models are known."""
    for index, step, place in steps(model):
        if step.model_name in fleet:
            yield index, step, place, fleet[step.model_name]


@rules.across(
    "PIP01",
    "there is no model '{member}'{nearest}",
    triton="ensemble {model} contains models that are not available or ambiguous: {member}",
    instead="the name of a model in the same repository",
)
def members_are_there(model: Subject, fleet: Fleet) -> Iterator[Found]:
    for _, step, place in steps(model):
        if step.model_name and step.model_name not in fleet:
            yield at(*place, "model_name", member=step.model_name, nearest=nearest(step.model_name, fleet))


@rules.across(
    "PIP02",
    "the ensemble runs itself, over {chain}",
    triton="circular dependency between ensembles: {model} -> ... -> ",
    instead="steps that do not lead back",
)
def ensembles_do_not_run_themselves(model: Subject, fleet: Fleet) -> Iterator[Found]:
    for _, step, place in steps(model):
        chain = _way_back(step.model_name, model.name, fleet)
        if chain is not None:
            yield at(*place, "model_name", chain=" -> ".join((model.name, *chain)))
            return


def _way_back(start: str, target: str, fleet: Fleet) -> list[str] | None:
    """The models from ``start`` to ``target``, if steps lead there."""
    ways: deque[list[str]] = deque([[start]])
    seen = {start}
    while ways:
        way = ways.popleft()
        if way[-1] == target:
            return way
        for _, step, _ in steps(fleet[way[-1]]) if way[-1] in fleet else ():
            if step.model_name not in seen:
                seen.add(step.model_name)
                ways.append([*way, step.model_name])
    return None


@rules.across(
    "PIP03",
    "step {step} asks for version {version} of '{member}', which is not served",
    triton="ensemble '{model}' depends on '{member}' whose required version {version} is not loaded.",
    instead="leave the version out for the latest one, or serve it by the version_policy of '{member}'",
)
def versions_are_served(model: Subject, fleet: Fleet) -> Iterator[Found]:
    for index, step, place, member in members(model, fleet):
        version = step.model_version
        if version != -1 and member.versions is not None and version not in served_versions(member):
            yield at(*place, "model_version", step=index, version=version, member=member.name)


@rules.across(
    "PIP04",
    "the ensemble takes batches up to {most}, and '{member}' only up to {limit}",
    triton="ensemble {model} allows maximum batch size {most}, but it contains model {member} which only allows "
    "maximum batch size to be {limit}",
    instead="max_batch_size: {limit} for the ensemble, or a greater one for '{member}'",
)
def members_take_the_batches(model: Subject, fleet: Fleet) -> Iterator[Found]:
    for _, _, _, member in members(model, fleet):
        limit = member.config.max_batch_size
        if 0 < limit < model.config.max_batch_size:
            yield at("max_batch_size", most=model.config.max_batch_size, member=member.name, limit=limit)


@rules.across(
    "PIP05",
    "'{member}' has no input '{input}'{nearest}",
    triton="in ensemble {model}, ensemble tensor {tensor} is mapping to non-existing input {input} in model {member}",
    instead="a name that '{member}' has",
)
def inputs_are_the_members(model: Subject, fleet: Fleet) -> Iterator[Found]:
    for _, step, place, member in members(model, fleet):
        names = {tensor.name for tensor in member.config.input}
        for name in sorted(step.input_map):
            if name not in names and _stated(member):
                words = {"member": member.name, "tensor": step.input_map[name], "nearest": nearest(name, names)}
                yield at(*place, "input_map", name, input=name, **words)


@rules.across(
    "PIP06",
    "step {step} gives '{member}' no '{input}'",
    triton="in ensemble {model}, input {input} in model {member} is not mapped to any ensemble tensors",
    instead="input: {{{input}: THE_ENSEMBLES_TENSOR}}, or optional: true in '{member}'",
)
def members_get_their_inputs(model: Subject, fleet: Fleet) -> Iterator[Found]:
    for index, step, place, member in members(model, fleet):
        for tensor in member.config.input:
            if tensor.name not in step.input_map and not tensor.optional:
                yield at(*place, "input_map", step=index, member=member.name, input=tensor.name)


@rules.across(
    "PIP07",
    "'{member}' has no output '{output}'{nearest}",
    triton="in ensemble {model}, ensemble tensor {tensor} is mapped from non-existing output {output} in model "
    "{member}",
    instead="a name that '{member}' has",
)
def outputs_are_the_members(model: Subject, fleet: Fleet) -> Iterator[Found]:
    for _, step, place, member in members(model, fleet):
        names = {tensor.name for tensor in member.config.output}
        for name in sorted(step.output_map):
            if name not in names and _stated(member):
                words = {"member": member.name, "tensor": step.output_map[name], "nearest": nearest(name, names)}
                yield at(*place, "output_map", name, output=name, **words)


def _stated(member: Subject) -> bool:
    """Whether the configuration says all that the model has; some backends read the rest from the artifact."""
    return not completed(member) or bool(member.config.input and member.config.output)


class Seen(NamedTuple):
    """What a tensor of an ensemble was first seen to be."""

    owner: str
    data_type: int
    dims: tuple[int, ...]
    full: tuple[int, ...]
    open: bool


def _seen(owner: Subject, tensor: Any, *, reshaped: bool) -> Seen:
    dims = tensor.reshape.shape if reshaped and tensor.HasField("reshape") else tensor.dims
    full = (*((-1,) if owner.batches else ()), *dims)
    # Some backends read from the artifact what the configuration leaves out.
    unknown = (not tensor.dims or not tensor.data_type) and completed(owner)
    return Seen(owner.name, tensor.data_type, tuple(dims), full, unknown)


def _uses(model: Subject, fleet: Fleet) -> Iterator[tuple[str, Seen, Place]]:
    """Every use of every tensor of an ensemble, in Triton's order."""
    for _role, tensor, place in model.tensors():
        yield tensor.name, _seen(model, tensor, reshaped=True), place
    for _, step, place, member in members(model, fleet):
        for role in ("input", "output"):
            mapped = getattr(step, f"{role}_map")
            for tensor in getattr(member.config, role):
                if tensor.name in mapped:
                    where = (*place, f"{role}_map", tensor.name)
                    yield mapped[tensor.name], _seen(member, tensor, reshaped=False), where


def _differing(model: Subject, fleet: Fleet) -> Iterator[tuple[str, Seen, Seen, Place]]:
    first: dict[str, Seen] = {}
    for name, seen, place in _uses(model, fleet):
        before = first.setdefault(name, seen)
        # The ensemble's own tensors are not held against each other.
        if before is not seen and len(place) > 2 and not before.open and not seen.open:
            yield name, before, seen, place


@rules.across(
    "PIP08",
    "the tensor '{tensor}' is {first} in '{owner}' and {second} in '{member}'",
    triton="in ensemble {model}, ensemble tensor {tensor}: inconsistent data type: {first} is inferred from model "
    "{owner} while {second} is inferred from model {member}",
    instead="the same data_type on both sides; a step between them can convert",
)
def types_fit(model: Subject, fleet: Fleet) -> Iterator[Found]:
    for name, before, seen, place in _differing(model, fleet):
        if before.data_type != seen.data_type:
            words = {
                "tensor": name,
                "first": protobuf.data_type_name(before.data_type),
                "owner": before.owner,
                "second": protobuf.data_type_name(seen.data_type),
                "member": seen.owner,
            }
            yield at(*place, **words)


@rules.across(
    "PIP09",
    "the tensor '{tensor}' is {first} in '{owner}' and {second} in '{member}'",
    triton="in ensemble {model}, ensemble tensor {tensor}: inconsistent shape: {first} is inferred from model "
    "{owner} while {second} is inferred from model {member}",
    instead="the same dims on both sides (-1 fits any size); the batch dimension, where a model has one, comes first",
)
def shapes_fit(model: Subject, fleet: Fleet) -> Iterator[Found]:
    for name, before, seen, place in _differing(model, fleet):
        if before.data_type != seen.data_type:
            continue
        if not _fit(before.dims, seen.dims) and not _fit(before.full, seen.full):
            words = {
                "tensor": name,
                "first": _shown(before.full),
                "owner": before.owner,
                "second": _shown(seen.full),
                "member": seen.owner,
            }
            yield at(*place, **words)


def _fit(one: Sequence[int], other: Sequence[int]) -> bool:
    return len(one) == len(other) and all(-1 in pair or pair[0] == pair[1] for pair in zip(one, other, strict=True))


def _shown(dims: Sequence[int]) -> str:
    return f"[{','.join(map(str, dims))}]"


@rules.across(
    "PIP10",
    "step {step} waits for answers of two decoupled models, which come in different numbers",
    triton="receives inputs originated from different decoupled models",
    instead="one way from each decoupled model, or both after one another",
)
def decoupled_answers_do_not_meet(model: Subject, fleet: Fleet) -> Iterator[Found]:
    source: dict[str, int] = {tensor.name: 0 for tensor in model.config.input}
    waiting = list(members(model, fleet))
    sources = 0
    grown = True
    while grown:
        grown = False
        for index, step, place, member in tuple(waiting):
            if not all(tensor in source for tensor in step.input_map.values()):
                continue
            waiting.remove((index, step, place, member))
            grown = True
            origins = {source[tensor] for tensor in step.input_map.values()}
            if len(origins) > 1:
                yield at(*place, step=index, member=member.name)
                return
            label = origins.pop() if origins else 0
            if _decoupled(member, fleet):
                sources += 1
                label = sources
            for tensor in step.output_map.values():
                source[tensor] = label


def _decoupled(member: Subject, fleet: Fleet, depth: int = 0) -> bool:
    """Whether a model answers in any number; an ensemble does where one of its models does."""
    if not member.is_ensemble:
        return bool(member.config.model_transaction_policy.decoupled)
    return depth < len(fleet) and any(_decoupled(inner, fleet, depth + 1) for *_, inner in members(member, fleet))


@rules.across(
    "PIP11",
    "step {step} runs '{member}', which Triton would refuse",
    triton="{words}",
    instead="what the findings of '{member}' say",
)
def members_are_valid(model: Subject, fleet: Fleet) -> Iterator[Found]:
    for index, _step, place, member in members(model, fleet):
        if member.name in model.refused:
            words = f"ensemble '{model.name}' depends on '{member.name}' which has no loaded version."
            if model.refused[member.name]:
                words = f"ensemble {model.name} contains models that are not available or ambiguous: {member.name}"
            yield at(*place, "model_name", step=index, member=member.name, words=words)
