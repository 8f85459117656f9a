"""From a spec to what is to be planned: its models' objectives, and the batches that they take."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

from tritonkit.errors import Fault, SpecError, nearest
from tritonkit.provision.choices import Workload
from tritonkit.provision.prediction import Behaviour
from tritonkit.provision.profiles import MEASURE
from tritonkit.spec.loading import LoadedSpec


def workloads(
    loaded: LoadedSpec, behaviours: Mapping[str, Behaviour], profile: str, *, measure: str = MEASURE
) -> tuple[Workload, ...]:
    """What each model with an ``slo`` is to hold.

    Args:
        loaded: the spec.
        behaviours: the models of the profile.
        profile: the profile's file, for messages.
        measure: the command that adds to it, for messages.

    Raises:
        SpecError: no model has an ``slo``, or one that has cannot be planned for, or is not in the profile, or not with
            batches that it takes.
    """
    found = {name: model.slo for name, model in loaded.spec.models.items() if model.slo is not None}
    if not found:
        loaded.faults.raise_if_any()
        origin = loaded.faults.origin(("models",))
        message = "no model has an slo; give one its latency and its rate: slo: {latency_p99: 20ms, rate: 300/s}"
        raise SpecError([Fault(origin.file, origin.line, "models", message)])
    wanted, missing = [], []
    for name, slo in sorted(found.items()):
        largest = largest_batch(loaded, name)
        if reason := unfit(loaded, name):
            loaded.faults.add(("models", name, "slo"), f"{reason}; without its slo it is served beside the plan")
        elif name not in behaviours:
            message = f"{profile} has no point of this model{nearest(name, behaviours)}"
            loaded.faults.add(("models", name, "slo"), message)
            missing.append(name)
        elif behaviours[name].curve.extent.batches[0] > largest:
            message = f"{profile} has no batch that this model takes: max_batch_size is {largest}"
            loaded.faults.add(("models", name, "slo"), message)
            missing.append(name)
        wanted.append(Workload(name, slo.latency_p99, slo.rate, largest))
    only = "".join(f" --model {shlex.quote(name)}" for name in missing)
    loaded.faults.raise_if_any(hint=f"Measure what is missing with: {measure}{only}" if missing else None)
    return tuple(wanted)


def unplanned(loaded: LoadedSpec) -> tuple[str, ...]:
    """The models without an ``slo`` that no model with one runs: a plan has no place for them."""
    steps = {
        step.model for model in loaded.spec.models.values() if model.slo is not None for step in model.ensemble or ()
    }
    return tuple(sorted(name for name, model in loaded.spec.models.items() if model.slo is None and name not in steps))


def unfit(loaded: LoadedSpec, name: str) -> str:
    """Why a model can be neither measured nor planned for; empty where it can."""
    fields = loaded.spec.models[name].fields
    if "sequence_batching" in fields:
        return "its requests are parts of sequences, which no profile and no plan accounts for"
    policy = fields.get("model_transaction_policy")
    if isinstance(policy, Mapping) and policy.get("decoupled"):
        return "it is decoupled, so a request has any number of answers and no latency that a plan could hold"
    return ""


def notes(loaded: LoadedSpec, name: str) -> tuple[str, ...]:
    """What a plan leaves out of account for a model, in words."""
    model = loaded.spec.models[name]
    found = []
    if model.ensemble is not None:
        found.append(
            "an ensemble is planned for as if it were one model; the batches of its members stay as the spec has them"
        )
    groups = model.fields.get("instance_group")
    counts = [group.get("count", 1) for group in groups if isinstance(group, Mapping)] if groups else []
    instances = sum(count for count in counts if isinstance(count, int))
    if instances > 1:
        found.append(
            f"it has {instances} instances; where each is a process of its own, as with Python-based backends, each "
            "may take the whole percentage, so more of a GPU may be taken than is given out"
        )
    return tuple(found)


def largest_batch(loaded: LoadedSpec, name: str) -> int:
    """How many items a request to a model of the spec may have: at least 1."""
    size: Any = loaded.spec.models[name].fields.get("max_batch_size", 0)
    return max(size, 1) if isinstance(size, int) else 1
