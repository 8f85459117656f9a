"""Rules on enum values that are numbers without a name: a protobuf takes them, and Triton mostly reads over them."""

from __future__ import annotations

from collections.abc import Iterator

from tritonkit.modelconfig import protobuf
from tritonkit.modelconfig.rules.instances import groups
from tritonkit.modelconfig.rules.rule import Found, Rules, Subject, at

rules = Rules()


@rules.rule(
    "NUM01",
    "the kind {kind} has no name",
    triton="instance group {group} of model {model} has unexpected kind KIND_AUTO",
    instead="kind: KIND_CPU, KIND_GPU, KIND_MODEL or KIND_AUTO",
)
def kinds_of_groups_have_names(model: Subject) -> Iterator[Found]:
    for group, place, name, kind in groups(model):
        if group.kind not in group.DESCRIPTOR.fields_by_name["kind"].enum_type.values_by_number:
            yield at(*place, "kind", group=name, kind=kind)


@rules.rule(
    "NUM02",
    "the kind {kind} of a batch {role} has no name",
    triton="unknown batch {role} kind '' for {model}",
    instead="a kind by its name, as in BATCH_ELEMENT_COUNT",
)
def kinds_of_batch_tensors_have_names(model: Subject) -> Iterator[Found]:
    for role, tensors in (("input", model.config.batch_input), ("output", model.config.batch_output)):
        for index, tensor in enumerate(tensors):
            if tensor.kind not in tensor.DESCRIPTOR.fields_by_name["kind"].enum_type.values_by_number:
                yield at(f"batch_{role}", index, "kind", role=role, kind=protobuf.enum_name(tensor, "kind"))
