"""What is asked to be measured, held against a spec: whose points there are, and what is left out of them and why."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tritonkit.errors import Fault, SpecError, UsageError, nearest
from tritonkit.provision.campaign import points
from tritonkit.provision.objectives import largest_batch, unfit
from tritonkit.provision.profiles import Key
from tritonkit.spec.loading import LoadedSpec


@dataclass(frozen=True)
class Selection:
    """What is to be measured.

    Attributes:
        points: each of them, once.
        models: whose points they are.
        left_out: in words, what was asked for and cannot be measured.
    """

    points: tuple[Key, ...]
    models: tuple[str, ...]
    left_out: tuple[str, ...]


def select(
    loaded: LoadedSpec,
    models: Sequence[str],
    percentages: Sequence[float],
    batches: Sequence[int] | None,
    pairs: Sequence[tuple[str, str]] | None,
) -> Selection:
    """The points of some models of a spec.

    Args:
        loaded: the spec.
        models: their names; none means those with an ``slo``, and where no model has one, all that can be measured.
        percentages: the thread percentages.
        batches: the batches; None chooses them for each model.
        pairs: which models to measure beside one another; None takes a ring of all.

    Raises:
        SpecError: a model is named that is not there, or that cannot be measured.
        UsageError: nothing is left to measure, or a pair has a model that is not measured alone.
    """
    named = [(f"--model {name}", name) for name in models]
    named += [(f"--pair {','.join(pair)}", name) for pair in pairs or () for name in pair]
    faults = []
    for option, name in named:
        if name not in loaded.spec.models:
            faults.append(Fault(option, 0, "", f"no such model{nearest(name, loaded.spec.models)}"))
        elif reason := unfit(loaded, name):
            faults.append(Fault(option, 0, "", f"cannot be measured: {reason}"))
    if faults:
        raise SpecError(faults)
    with_slo = [name for name, model in loaded.spec.models.items() if model.slo is not None]
    wanted = list(models or with_slo or loaded.spec.models)
    left_out = [f"{name}: {reason}" for name in wanted if (reason := unfit(loaded, name))]
    names = [name for name in wanted if not unfit(loaded, name)]
    apart = [name for pair in pairs or () for name in pair if name not in names]
    if apart:
        raise UsageError(
            f"--pair: {apart[0]} is not among the models that are measured", hint=f"Add --model {apart[0]}"
        )
    largest = {name: largest_batch(loaded, name) for name in names}
    for name in names:
        above = [str(size) for size in batches or () if size > largest[name]]
        if above:
            left_out.append(f"{name}: batch {', '.join(above)}, as it takes at most {largest[name]}")
    found = points(largest, percentages, chosen=batches, pairs=pairs)
    if not found:
        raise UsageError("nothing is left to measure: " + "; ".join(left_out))
    return Selection(found, tuple(dict.fromkeys(key.model for key in found)), tuple(left_out))
