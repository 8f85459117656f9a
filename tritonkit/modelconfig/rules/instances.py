"""Rules on instance groups, and on the GPUs that the server will see."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tritonkit.modelconfig import protobuf
from tritonkit.modelconfig.findings import Severity
from tritonkit.modelconfig.platforms import TENSORRT_PLAN
from tritonkit.modelconfig.rules.rule import Found, Place, Rules, Subject, at

rules = Rules(needs="instance_group")


def groups(model: Subject) -> Iterator[tuple[Any, Place, str, str]]:
    """Each group with its place, its name as Triton gives it, and its kind as Triton resolves it."""
    if model.is_ensemble:
        return
    gpus = model.machine.gpus
    for index, group in enumerate(model.config.instance_group):
        kind = protobuf.enum_name(group, "kind")
        if kind == "KIND_AUTO" and gpus is not None:
            here = gpus > 0 and all(0 <= gpu < gpus for gpu in group.gpus)
            kind = "KIND_GPU" if here else "KIND_CPU"
        yield group, ("instance_group", index), group.name or f"{model.name}_{index}", kind


@rules.rule(
    "INS01",
    "instances on the {where} are given GPUs",
    triton="instance group {group} of model {model} has kind {kind} but specifies one or more GPUs",
    instead="leave 'gpus' out, or kind: KIND_GPU",
)
def other_kinds_name_no_gpus(model: Subject) -> Iterator[Found]:
    for group, place, name, kind in groups(model):
        if kind in ("KIND_CPU", "KIND_MODEL") and group.gpus:
            stated = protobuf.enum_name(group, "kind")
            where = "CPU" if kind == "KIND_CPU" else "model's own devices"
            if stated == "KIND_AUTO":
                where = "CPU (none of the GPUs named is there)"
            yield at(*place, "gpus", group=name, kind=kind, where=where)


@rules.rule(
    "INS02",
    "instances on GPUs are asked for, and the server has none",
    triton="instance group {group} of model {model} has kind KIND_GPU but no GPUs are available",
    instead="kind: KIND_CPU, or KIND_AUTO, which takes what is there",
)
def gpus_are_there(model: Subject) -> Iterator[Found]:
    for group, place, name, kind in groups(model):
        if kind == "KIND_GPU" and not group.gpus and model.machine.gpus == 0:
            yield at(*place, "kind", group=name)


@rules.rule(
    "INS03",
    "GPU {gpu} is asked for, and the server sees {gpus}",
    triton="instance group {group} of model {model} specifies invalid or unsupported gpu id {gpu}. GPUs with at least "
    "the minimum required CUDA compute compatibility of",
    instead="GPU numbers from 0, counted over the GPUs that this server sees; or leave 'gpus' out for all of them",
)
def named_gpus_are_there(model: Subject) -> Iterator[Found]:
    gpus = model.machine.gpus
    for group, place, name, kind in groups(model):
        for index, gpu in enumerate(group.gpus):
            if kind == "KIND_GPU" and gpus is not None and not 0 <= gpu < gpus:
                yield at(*place, "gpus", index, group=name, gpu=gpu, gpus=gpus)


@rules.rule(
    "INS04",
    "GPU {gpu} is asked for: if each server sees one GPU, that GPU is number 0",
    triton="instance group {group} of model {model} specifies invalid or unsupported gpu id {gpu}",
    instead="leave 'gpus' out: the instances go to all GPUs that the server sees",
    severity=Severity.WARNING,
)
def named_gpus_are_relative(model: Subject) -> Iterator[Found]:
    for group, place, name, kind in groups(model):
        for index, gpu in enumerate(group.gpus):
            if kind in ("KIND_GPU", "KIND_AUTO") and model.machine.gpus is None and gpu != 0:
                yield at(*place, "gpus", index, group=name, gpu=gpu)


@rules.rule(
    "INS05",
    "an optimization profile is named, which only TensorRT has",
    triton="specifies profile field which is only supported for TensorRT models",
    instead="leave 'profile' out",
)
def profiles_are_tensorrt(model: Subject) -> Iterator[Found]:
    for group, place, _, _ in groups(model):
        if group.profile and model.normal.platform != TENSORRT_PLAN:
            yield at(*place, "profile")


@rules.rule(
    "INS06",
    "the profile '{profile}' is no number",
    triton="unable to parse '{profile}'",
    instead='profile: ["0"]',
    unseen="only a server with TensorRT comes that far",
)
def profiles_are_numbers(model: Subject) -> Iterator[Found]:
    for group, place, _, _ in groups(model):
        for index, profile in enumerate(group.profile):
            if model.normal.platform == TENSORRT_PLAN and not profile.strip().isdigit():
                yield at(*place, "profile", index, profile=profile)


@rules.rule(
    "INS07",
    "no count is said, and of the onnxruntime backend Triton makes two instances on a CPU",
    instead="count: 1, or as many as are meant",
    severity=Severity.INFO,
)
def counts_are_said(model: Subject) -> Iterator[Found]:
    for group, place, _, kind in groups(model):
        if group.count < 1 and kind == "KIND_CPU" and model.normal.backend == "onnxruntime":
            yield at(*place, "count")
