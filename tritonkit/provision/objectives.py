"""From a spec to what is to be planned: its models' objectives, and the batches that they take."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tritonkit.errors import Fault, SpecError, nearest
from tritonkit.provision.choices import Workload
from tritonkit.provision.prediction import Behaviour
from tritonkit.spec.loading import LoadedSpec


def workloads(loaded: LoadedSpec, behaviours: Mapping[str, Behaviour], profile: str) -> tuple[Workload, ...]:
    """What each model with an ``slo`` is to hold.

    Args:
        loaded: the spec.
        behaviours: the models of the profile.
        profile: the profile's file, for messages.

    Raises:
        SpecError: no model has an ``slo``, or one that has is not in the profile, or not with batches that it takes.
    """
    found = {name: model.slo for name, model in loaded.spec.models.items() if model.slo is not None}
    if not found:
        loaded.faults.raise_if_any()
        origin = loaded.faults.origin(("models",))
        message = "no model has an slo; give one its latency and its rate: slo: {latency_p99: 20ms, rate: 300/s}"
        raise SpecError([Fault(origin.file, origin.line, "models", message)])
    wanted = []
    for name, slo in sorted(found.items()):
        largest = largest_batch(loaded, name)
        if name not in behaviours:
            message = f"{profile} has no point of this model{nearest(name, behaviours)}"
            loaded.faults.add(("models", name, "slo"), message)
        elif behaviours[name].curve.extent.batches[0] > largest:
            message = f"{profile} has no batch that this model takes: max_batch_size is {largest}"
            loaded.faults.add(("models", name, "slo"), message)
        wanted.append(Workload(name, slo.latency_p99, slo.rate, largest))
    loaded.faults.raise_if_any()
    return tuple(wanted)


def unplanned(loaded: LoadedSpec) -> tuple[str, ...]:
    """The models without an ``slo`` that no model with one runs: a plan has no place for them."""
    steps = {
        step.model for model in loaded.spec.models.values() if model.slo is not None for step in model.ensemble or ()
    }
    return tuple(sorted(name for name, model in loaded.spec.models.items() if model.slo is None and name not in steps))


def largest_batch(loaded: LoadedSpec, name: str) -> int:
    """How many items a request to a model of the spec may have: at least 1."""
    size: Any = loaded.spec.models[name].fields.get("max_batch_size", 0)
    return max(size, 1) if isinstance(size, int) else 1
