"""Plans: what every plan keeps to, whatever is asked; how few GPUs; and what is told where there is none."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from itertools import product
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from profiled import TRUTHS, rows

from tritonkit.errors import Infeasible
from tritonkit.provision import solver
from tritonkit.provision.choices import (
    MOST_LOAD,
    Choice,
    Terms,
    Workload,
    batches,
    choices,
    fewest_replicas,
    least_percentage,
    percentages,
)  # fmt: skip
from tritonkit.provision.curves import Curve, Extent, Fitted
from tritonkit.provision.explanation import document, fewest, why
from tritonkit.provision.packing import EFFORT, Packing, greedy, menu, pack
from tritonkit.provision.placement import faults, item, items, settle
from tritonkit.provision.prediction import Behaviour, Neighbour, behaviours, neighbours_of, predict
from tritonkit.provision.queueing import longest_ms, wait_ms

KNOWN = behaviours(rows())
WORKLOADS = (
    Workload("bert", 60, 150),
    Workload("captioner", 400, 10),
    Workload("mobilenet", 12, 400),
    Workload("resnet50", 30, 300),
)


@st.composite
def behaviours_of(draw: st.DrawFn, name: str) -> Behaviour:
    most = draw(st.sampled_from([1, 4, 8]))
    extent = Extent((10.0, 100.0), (1, most), ((10.0, most),))
    shape = Fitted(
        draw(st.floats(0, 0.2)), draw(st.floats(1, 200)), draw(st.floats(1, 300)), draw(st.floats(0, 20)),
        draw(st.floats(0.1, 3)), 0.0, extent,
    )  # fmt: skip
    curve = Curve(shape, 0.02, 0.2, extent, (), None, ())
    return Behaviour(
        name,
        curve,
        alpha=draw(st.sampled_from([0.0, 1e-7]) | st.floats(0.01, 1.5)),
        demand=draw(st.floats(0, 2)),
        delay_ms=draw(st.sampled_from([0.0, 0.05, 0.5])),
        efficiency=draw(st.floats(0.8, 1.3)),
        memory_mib=draw(st.sampled_from([0.0, 1500.0, 9000.0, 30_000.0])),
        clients=draw(st.integers(1, 9)),
    )


@st.composite
def problems(draw: st.DrawFn, most: int = 5) -> tuple[list[Workload], dict[str, Behaviour], Terms]:
    """A few models, each with an objective that it can meet alone on some number of GPUs."""
    known, wanted = {}, []
    terms = Terms(memory_mib=80_000, execution_share=draw(st.sampled_from([None, 0.3, 0.5, 0.7])))
    for number in range(draw(st.integers(1, most))):
        name = f"m{number}"
        known[name] = draw(behaviours_of(name))
        alone = known[name].curve.latency_ms(1, 60)
        slo = alone * draw(st.floats(2, 30))
        rate = draw(st.floats(0.05, 1.5)) * 1000 / alone
        workload = Workload(name, slo, rate)
        assume(fewest_replicas(known[name], workload, terms) is not None)
        wanted.append(workload)
    return wanted, known, terms


@given(problems())
@settings(max_examples=30)
def test_every_plan_keeps_to_its_terms(problem: tuple[list[Workload], dict[str, Behaviour], Terms]) -> None:
    wanted, known, terms = problem
    plan = pack(wanted, known, terms, effort=0.5)
    served = dict.fromkeys(known, 0.0)
    for placed in plan.gpus:
        assert placed
        assert sum(seat.choice.thread_percentage for seat in placed) <= 100
        assert sum(known[seat.model].memory_mib for seat in placed) <= 80_000
        assert sum(known[seat.model].clients for seat in placed) <= 48
        together = [(known[seat.model], float(seat.choice.thread_percentage)) for seat in placed]
        for index, seat in enumerate(placed):
            choice = seat.choice
            # By the predictor, and by nothing that the search has computed.
            run = predict(
                known[seat.model], choice.batch_size, choice.thread_percentage, neighbours_of(index, together),
                choice.rate,
            )  # fmt: skip
            slo = choice.workload.slo_ms
            if terms.execution_share is not None:
                assert run.takes_ms <= slo * terms.execution_share + 1e-6
                assert run.wait_ms <= slo * (1 - terms.execution_share) + 1e-6
            assert run.latency_p99_ms <= slo + 2e-6
            assert choice.rate <= MOST_LOAD * run.capacity * (1 + 1e-9)
            served[seat.model] += choice.rate
            assert why(seat, placed, terms)
    for workload in wanted:
        assert served[workload.model] == pytest.approx(workload.rate)
    assert plan.lower_bound <= len(plan.gpus)
    assert faults(plan.gpus, wanted, terms) == []
    # The same again, in whatever order it is asked.
    assert document(pack(wanted[::-1], known, terms, effort=0.5), terms) == document(plan, terms)


@given(problems(most=4))
@settings(max_examples=20)
def test_no_assignment_needs_fewer_gpus_than_a_proven_plan(
    problem: tuple[list[Workload], dict[str, Behaviour], Terms],
) -> None:
    wanted, known, terms = problem
    plan = pack(wanted, known, terms)
    needed = [fewest_replicas(known[each.model], each, terms) for each in wanted]
    assume(all(count == 1 for count in needed))
    items = [item(known[each.model], each, 1, terms) for each in wanted]
    fewest = min(
        len(set(places))
        for places in product(range(len(items)), repeat=len(items))
        if all(
            settle([one for one, place in zip(items, places, strict=True) if place == gpu], terms) is not None
            for gpu in set(places)
        )
    )
    # Replicas may do with fewer; a plan never needs more.
    assert len(plan.gpus) <= fewest
    assert plan.lower_bound <= fewest


@given(problems(most=3))
@settings(max_examples=25)
def test_no_percentages_that_hold_are_smaller(problem: tuple[list[Workload], dict[str, Behaviour], Terms]) -> None:
    wanted, known, terms = problem
    items = [item(known[each.model], each, 1, terms) for each in wanted]
    settled = settle(items, terms)
    for chosen in product(*(each.choices for each in items)):
        pressure = sum(choice.pressure for choice in chosen)
        if sum(choice.thread_percentage for choice in chosen) <= 100 and all(
            choice.bears(pressure - choice.pressure, len(items) - 1) for choice in chosen
        ):
            # Whatever holds is at least as large, everywhere; and where anything holds, something was found.
            memory = sum(each.behaviour.memory_mib for each in items)
            assert settled is not None or memory > 80_000
            for choice, least in zip(chosen, settled or (), strict=False):
                assert choice.thread_percentage >= least.thread_percentage


def test_interference_makes_percentages_grow() -> None:
    alone = {each.model: pack([each], KNOWN, Terms()).gpus[0][0].choice.thread_percentage for each in WORKLOADS}
    together = pack(WORKLOADS, KNOWN, Terms())
    (gpu,) = together.gpus
    grown = {seat.model: seat.choice.thread_percentage for seat in gpu}
    assert all(grown[model] >= alone[model] for model in alone)
    assert any(grown[model] > alone[model] for model in alone)
    assert {seat.model: seat.alone for seat in gpu} == alone
    assert together.proven
    assert any("% without neighbours)" in why(seat, gpu, Terms()) for seat in gpu)


def test_one_step_less_would_break_what_the_reason_says() -> None:
    (gpu,) = pack([Workload("mobilenet", 12, 1500), Workload("resnet50", 30, 600)], KNOWN, Terms()).gpus
    for seat in gpu:
        reason = why(seat, gpu, Terms())
        assert reason.startswith(f"at {seat.choice.thread_percentage - 5} % ")


def test_a_rate_beyond_one_gpu_has_replicas() -> None:
    plan = pack([Workload("resnet50", 30, 9000)], KNOWN, Terms())
    assert len(plan.gpus) == 3
    assert {seat.choice.replicas for _, seat in plan.seats} == {3}
    assert len({seat.choice.batch_size for _, seat in plan.seats}) == 1
    assert sum(seat.choice.rate for _, seat in plan.seats) == pytest.approx(9000)


@pytest.mark.parametrize("workload", [Workload("resnet50", 30, 9000), Workload("bert", 60, 2400)])
def test_replicas_may_have_each_batch_at_all_of_its_percentages(workload: Workload) -> None:
    behaviour = KNOWN[workload.model]
    count = fewest_replicas(behaviour, workload, Terms())
    assert count is not None
    assert count > 1
    offered = [each.choices for each in items(behaviour, workload, count + 1, Terms())]
    better_somewhere = {choice.batch_size for choice in choices(behaviour, workload, count + 1, None)}
    assert {found[0].batch_size for found in offered} >= better_somewhere
    assert len(offered) > 1
    for size in batches(behaviour, workload):
        alone = choices(behaviour, workload, count + 1, None, only_batch=size)
        if any(found[0].batch_size == size for found in offered):
            assert alone in offered
            continue
        # Left out: some other batch does at every percentage.
        assert any(
            all(
                any(
                    (other.thread_percentage, other.slope_ms <= one.slope_ms, other.slack_ms >= one.slack_ms)
                    == (one.thread_percentage, True, True)
                    for other in found
                )
                for one in alone
            )
            for found in offered
        )


def test_memory_and_clients_are_limits() -> None:
    known = {name: replace(each, memory_mib=30_000) for name, each in KNOWN.items()}
    assert len(pack(WORKLOADS, known, Terms(memory_mib=80_000)).gpus) == 2
    known = {name: replace(each, clients=20) for name, each in KNOWN.items()}
    assert len(pack(WORKLOADS, known, Terms()).gpus) == 2
    assert len(pack(WORKLOADS, KNOWN, Terms(memory_mib=80_000)).gpus) == 1


def infeasible(wanted: list[Workload], terms: Terms, known: Mapping[str, Behaviour] = KNOWN) -> Infeasible:
    with pytest.raises(Infeasible) as caught:
        pack(wanted, known, terms)
    assert caught.value.exit_code == 7
    return caught.value


def told(error: Infeasible, unit: str) -> float:
    """The rate or the SLO that the hint says would fit."""
    words = (error.hint or "").split()
    return next(float(word.rstrip(".,").removesuffix(unit)) for word in words if word.rstrip(".,").endswith(unit))


def test_an_slo_below_the_fastest_possible_says_which_one_fits() -> None:
    error = infeasible([Workload("resnet50", 2, 10)], Terms())
    assert str(error.args[0]).startswith("resnet50: an SLO of 2 ms cannot be met at any rate: alone at 100 % a request")
    slo = told(error, "ms")
    assert pack([Workload("resnet50", slo, 10)], KNOWN, Terms())
    infeasible([Workload("resnet50", slo * 0.97, 10)], Terms())


def test_a_rate_beyond_all_gpus_says_which_one_fits() -> None:
    error = infeasible([Workload("resnet50", 30, 50_000)], Terms(gpus=2))
    assert "50000/s cannot be served within 30 ms, not with 2 GPUs of its own" in str(error.args[0])
    rate = told(error, "/s")
    assert len(pack([Workload("resnet50", 30, rate)], KNOWN, Terms(gpus=2)).gpus) == 2
    infeasible([Workload("resnet50", 30, rate * 1.05)], Terms(gpus=2))


def test_models_that_do_not_fit_together_name_one_and_what_would_fit() -> None:
    wanted = [Workload("bert", 60, 900), Workload("mobilenet", 12, 2500), Workload("resnet50", 30, 1500)]
    assert len(pack(wanted, KNOWN, Terms()).gpus) == 2
    error = infeasible(wanted, Terms(gpus=1))
    model = str(error.args[0]).partition(":")[0]
    assert "2 GPUs are needed, and there is 1" in str(error.args[0])
    assert f"What would fit {model}: " in (error.hint or "")
    rate = told(error, "/s")
    smaller = [replace(each, rate=rate) if each.model == model else each for each in wanted]
    assert len(pack(smaller, KNOWN, Terms(gpus=1)).gpus) == 1


def easier(wanted: list[Workload], error: Infeasible) -> list[Workload]:
    """What is asked, with the first rate or SLO that the hint names for each model."""
    found = list(wanted)
    for model, kind, value in re.findall(
        r"What would fit (\w+)[^:]*: a (rate|latency_p99) of ([\d.]+)", error.hint or ""
    ):
        field = "rate" if kind == "rate" else "slo_ms"
        found = [replace(each, **{field: float(value)}) if each.model == model else each for each in found]  # type: ignore[arg-type]
    return found


@pytest.mark.parametrize("spare", [False, True])
def test_what_is_told_to_fit_fits_beside_the_others(spare: bool) -> None:
    wanted = [Workload("bert", 60, 900), Workload("mobilenet", 12, 2500), Workload("resnet50", 30, 9000)]
    terms = Terms(gpus=2, spare=spare)
    error = infeasible(wanted, terms)
    rate = told(error, "/s")
    # Alone on two GPUs it could have more.
    assert len(pack([Workload("resnet50", 30, rate * 1.3)], KNOWN, terms).gpus) <= 2
    plan = pack(easier(wanted, error), KNOWN, terms)
    assert len(plan.gpus) == 2
    assert not spare or any(sum(seat.choice.thread_percentage for seat in gpu) < 100 for gpu in plan.gpus)
    # And how many GPUs would do for all as they are.
    (count,) = re.findall(r"With (\d+) GPUs all of them fit as they are", error.hint or "")
    assert len(pack(wanted, KNOWN, replace(terms, gpus=int(count))).gpus) <= int(count)
    infeasible(wanted, replace(terms, gpus=int(count) - 1))


@pytest.mark.parametrize("terms", [Terms(), Terms(gpus=1), Terms(gpus=2)])
def test_all_models_that_cannot_be_served_are_told_at_once(terms: Terms) -> None:
    wanted = [
        Workload("bert", 60, 1e6), Workload("captioner", 5, 10), Workload("mobilenet", 12, 400),
        Workload("resnet50", 2, 300),
    ]  # fmt: skip
    error = infeasible(wanted, terms)
    assert [line.partition(":")[0] for line in str(error.args[0]).splitlines()] == ["bert", "captioner", "resnet50"]
    assert "With" not in (error.hint or "")
    mended = easier(wanted, error)
    assert [before.model for before, after in zip(wanted, mended, strict=True) if before != after] == [
        "bert", "captioner", "resnet50",
    ]  # fmt: skip
    assert pack(mended, KNOWN, terms).gpus


def test_the_part_of_all_rates_that_is_told_fits() -> None:
    wanted = [Workload("bert", 60, 1800), Workload("mobilenet", 12, 5000), Workload("resnet50", 30, 3000)]
    error = infeasible(wanted, Terms(gpus=1))
    (part,) = re.findall(r"or let every rate be ([\d.]+) % of what is asked", error.hint or "")
    assert (
        len(pack([replace(each, rate=each.rate * float(part) / 100) for each in wanted], KNOWN, Terms(gpus=1)).gpus)
        == 1
    )
    infeasible([replace(each, rate=each.rate * float(part) / 90) for each in wanted], Terms(gpus=1))


def test_models_without_an_objective_are_left_room() -> None:
    known = {f"m{number}": plain(50) for number in range(2)}
    wanted = [Workload(name, slo_of(10.05, 10), 10) for name in known]
    assert [sum(seat.choice.thread_percentage for seat in gpu) for gpu in pack(wanted, known, Terms(gpus=1)).gpus] == [
        100
    ]
    assert len(pack(wanted, known, Terms(spare=True)).gpus) == 1
    assert len(pack(wanted, known, Terms(gpus=2, spare=True)).gpus) == 1
    error = infeasible(wanted, Terms(gpus=1, spare=True), known)
    assert "2 GPUs were needed by the best plan found, one of them for the models without an slo" in str(error.args[0])
    assert len(pack(easier(wanted, error), known, Terms(gpus=1, spare=True)).gpus) == 1


def test_what_gpus_have_too_little_of_is_named() -> None:
    known = {name: replace(each, memory_mib=30_000) for name, each in KNOWN.items()}
    error = infeasible(list(WORKLOADS), Terms(gpus=1, memory_mib=80_000), known)
    assert "2 GPUs are needed, and there is 1: their memory is too small" in str(error.args[0])
    assert "servers take 120000 MiB, the largest 30000 MiB, and a GPU has 80000 MiB" in str(error.args[0])
    assert (error.hint or "").startswith("Give 2 GPUs (--gpus 2), or larger ones")
    known = {name: replace(each, clients=20) for name, each in KNOWN.items()}
    error = infeasible(list(WORKLOADS), Terms(gpus=1), known)
    assert "the models' servers are 80 MPS clients, and a GPU has 48" in str(error.args[0])


def test_memory_that_no_gpu_has_is_told() -> None:
    error = infeasible([Workload("captioner", 400, 10)], Terms(memory_mib=4000))
    assert error.args[0] == "captioner: its server takes 7800 MiB, and a GPU has 4000 MiB"


def test_more_of_an_slo_for_computing_leaves_less_for_waiting() -> None:
    for share in (0.2, 0.8):
        found = choices(KNOWN["bert"], WORKLOADS[0], 1, share)
        run = predict(KNOWN["bert"], found[0].batch_size, found[0].thread_percentage, (), 150)
        assert run.latency_ms <= 60 * share
        assert run.wait_ms <= 60 * (1 - share) + 1e-6
    with pytest.raises(ValueError, match="between 0 and 1"):
        Terms(execution_share=1.0)


def test_a_plan_that_is_changed_by_hand_is_found_out() -> None:
    plan = pack(WORKLOADS, KNOWN, Terms(memory_mib=80_000))
    ((first, *others),) = plan.gpus
    less = replace(first, choice=replace(first.choice, thread_percentage=10, batch_size=1))
    assert faults([(less, *others)], WORKLOADS, Terms(memory_mib=80_000))
    assert any("of 1000 MiB" in fault for fault in faults(plan.gpus, WORKLOADS, Terms(memory_mib=1000)))
    assert any("MPS clients of 3" in fault for fault in faults(plan.gpus, WORKLOADS, Terms(clients=3)))
    assert any(fault.startswith("bert: 0.00/s of 150/s") for fault in faults([()], WORKLOADS, Terms()))
    assert faults([*plan.gpus, *plan.gpus], WORKLOADS, Terms(gpus=1))[0] == "2 GPUs are used, and there are 1"


def plain(percentage: float, **others: Any) -> Behaviour:
    """A model that takes 10 ms at so much of a GPU, with batches of one, and does nothing to others."""
    extent = Extent((5.0, 100.0), (1, 1), ((5.0, 1),))
    curve = Curve(Fitted(0, 0, 10 * percentage, 0, 0, 0, extent), 0, 0, extent, (), None, ())
    return replace(Behaviour("m", curve, 0.0, 0.0, memory_mib=10.0, clients=1), **others)


def slo_of(service: float, rate: float) -> float:
    """The SLO that is just held with so long a batch."""
    return longest_ms(service) + wait_ms(service, 1, 1000 / service, rate)


def test_the_solver_finds_what_greedy_orders_miss() -> None:
    # Two GPUs, both full: 45 + 30 + 25 and 40 + 35 + 25; whoever begins with the largest ones needs a third.
    known = {f"m{number}": plain(size) for number, size in enumerate((45, 40, 35, 30, 25, 25))}
    wanted = [Workload(name, slo_of(10.05, 10), 10) for name in known]
    terms = Terms()
    menus = {each.model: menu(each, known[each.model], terms) for each in wanted}
    assert [items[0].choices[0].thread_percentage for items in menus.values()] == [45, 40, 35, 30, 25, 25]
    assert len(greedy(menus, terms)) == 3
    plan = pack(wanted, known, terms)
    assert (len(plan.gpus), plan.proven) == (2, True)
    assert [sum(seat.choice.thread_percentage for seat in gpu) for gpu in plan.gpus] == [100, 100]


def test_greedy_tries_more_than_one_order() -> None:
    # By name, and so by equal percentages, the first three fill a GPU, and the last two do not fit on one.
    known = {name: plain(5, memory_mib=size) for name, size in zip("abcde", (20, 30, 40, 50, 60), strict=True)}
    wanted = [Workload(name, 1000, 1) for name in known]
    terms = Terms(memory_mib=100)
    assert len(greedy({each.model: menu(each, known[each.model], terms) for each in wanted}, terms)) == 2


def test_more_replicas_are_taken_where_they_need_less() -> None:
    extent = Extent((10.0, 100.0), (1, 1), ((10.0, 1),))
    curve = Curve(Fitted(0, 0, 300, 60, 5, 0, extent), 0, 0, extent, (), None, ())
    known = {f"m{number}": Behaviour(f"m{number}", curve, 0.3, 1.0, variation=0.0) for number in range(6)}
    wanted = [Workload(name, 60, 80) for name in known]
    plan = pack(wanted, known, Terms())
    # One of each takes 30 %, two take 10 % each: twelve seats on two GPUs instead of six on three.
    assert len(pack([replace(each, rate=40) for each in wanted], known, Terms()).gpus) == 1
    assert {seat.choice.replicas for _, seat in plan.seats} == {2}
    assert (len(plan.gpus), plan.proven) == (2, True)
    assert faults(plan.gpus, wanted, Terms()) == []
    assert fewest(plan) == "no plan has fewer"


def test_what_was_not_tried_is_not_said_to_be_impossible() -> None:
    plan = pack(WORKLOADS, KNOWN, Terms())
    assert fewest(plan) == "no plan has fewer"
    assert fewest(replace(plan, lower_bound=0)) == (
        "no plan with the numbers of replicas that were tried has fewer; at least 0 are needed"
    )
    assert fewest(replace(plan, lower_bound=0, lower_bound_tried=0)) == "at least 0 are needed"


def test_an_slo_is_divided_as_a_model_needs_least() -> None:
    for workload in WORKLOADS:
        fixed = [least_percentage(KNOWN[workload.model], workload, 1, share) for share in (0.3, 0.5, 0.7)]
        free = least_percentage(KNOWN[workload.model], workload, 1, None)
        assert free is not None
        assert all(each is None or free <= each for each in fixed)
    # A request that takes most of its SLO and hardly waits.
    rare = Workload("captioner", 80, 0.5)
    small = least_percentage(KNOWN["captioner"], rare, 1, None)
    assert small is not None
    assert (least_percentage(KNOWN["captioner"], rare, 1, 0.5) or 100) > small


def test_a_plan_leaves_room_for_what_is_not_known() -> None:
    limits = {}
    for name, known in {
        "sure": plain(30),
        "fit": plain(30, curve=replace(plain(30).curve, held_out=0.2)),
        "scatter": plain(30, variation=0.3),
        "doubt": plain(30, doubt=0.5, demand=1.0),
    }.items():
        limits[name] = choices(known, Workload("m", 60, 10), 1, None)
    slack = {name: each[0].slack_ms + known_active(each[0]) for name, each in limits.items()}
    assert slack["fit"] == pytest.approx(slack["sure"] / 1.2)
    assert slack["scatter"] < 0.9 * slack["sure"]
    assert slack["doubt"] == pytest.approx(slack["sure"])
    assert not limits["doubt"][0].bears(10.0, 1)
    assert limits["sure"][0].bears(10.0, 1)
    # And the predictor says the same of the plan.
    run = predict(plain(30, doubt=0.5), 1, 30, [Neighbour(plain(30, demand=1.0), 100)])
    assert (run.service_ms, run.takes_ms) == pytest.approx((10, longest_ms(15)))


def known_active(choice: Choice) -> float:
    return choice.behaviour.curve.active_ms(choice.batch_size, choice.thread_percentage)


def test_no_plan_has_a_load_near_one() -> None:
    # Any wait would do.
    patient = Workload("m", 1e6, 89)
    (found,) = pack([patient], {"m": plain(100)}, Terms()).gpus[0]
    assert found.prediction.load == pytest.approx(0.89)
    assert len(pack([replace(patient, rate=91)], {"m": plain(100)}, Terms()).gpus) == 2


@pytest.mark.parametrize(("alpha", "delay", "most"), [(4e-37, 4e-19, 2), (0.0, 4e-19, 2), (1e-9, 4.0, 6)])
def test_influences_of_nothing_are_no_overflow(alpha: float, delay: float, most: int) -> None:
    # Sizes that only the solver packs: it counts in whole numbers of 64 bits.
    sizes = (45, 40, 35, 30, 25, 25)
    known = {f"m{number}": plain(size, alpha=alpha, delay_ms=delay, demand=1.0) for number, size in enumerate(sizes)}
    wanted = [Workload(name, slo_of(10.05, 10), 10) for name in known]
    assert len(pack(wanted, known, Terms()).gpus) <= most


def test_the_reason_of_a_full_gpu_names_its_best_batch() -> None:
    plan = pack([Workload("resnet50", 30, 9000)], KNOWN, Terms())
    (_, seat), *_ = plan.seats
    single = pack([Workload("resnet50", 300, 2000)], KNOWN, Terms()).gpus[0]
    smaller = single[0].choice.thread_percentage - 5
    best = max(predict(KNOWN["resnet50"], batch, smaller).capacity for batch in range(1, 17))
    assert why(single[0], single, Terms()).startswith(f"at {smaller} % it serves {best:.4g}/s at best")
    assert seat.choice.replicas > 1


def test_a_rate_for_many_gpus_has_as_many_replicas_as_it_needs() -> None:
    plan = pack([Workload("m", 1000, 2000)], {"m": plain(100)}, Terms())
    assert len(plan.gpus) == 23
    error = infeasible([Workload("resnet50", 30, 1e7)], Terms())
    assert "64 GPUs of its own, as many as a plan may have" in str(error.args[0])


def test_percentages_are_those_that_were_measured_too() -> None:
    def measured(*percentages: float) -> Behaviour:
        extent = Extent((percentages[0], percentages[-1]), (1, 1), tuple((each, 1) for each in percentages))
        curve = Curve(Fitted(0, 0, 100, 0, 0, 0, extent), 0, 0, extent, (), None, ())
        return Behaviour("m", curve, 0.0, 0.0)

    assert percentages(measured(33)) == (33,)
    assert percentages(measured(7, 12.5, 20)) == (7, 10, 15, 20)
    wanted = [Workload("m", 1000, 1)]
    (seat,) = pack(wanted, {"m": measured(7, 20)}, Terms()).gpus[0]
    assert (seat.choice.thread_percentage, why(seat, [seat], Terms())) == (7, "the smallest that was profiled")
    (seat,) = pack(wanted, {"m": measured(12.5, 20)}, Terms()).gpus[0]
    assert seat.choice.thread_percentage == 15
    assert why(seat, [seat], Terms()) == (
        "the smallest that plans give, as they give whole percentages and 12.5 % was profiled"
    )
    with pytest.raises(Infeasible, match=r"alone at 20 %, the largest that was profiled, a request takes"):
        pack([Workload("m", 1, 1)], {"m": measured(7, 20)}, Terms())
    with pytest.raises(Infeasible, match="multiples of 5 or were measured and are whole, and its profile has none"):
        pack(wanted, {"m": measured(33.5)}, Terms())


def test_batches_and_rates_beyond_all_reason_come_to_an_end() -> None:
    huge = Extent((10.0, 100.0), (1, 10**9), ((10.0, 10**9),))
    known = replace(KNOWN["bert"], curve=replace(KNOWN["bert"].curve, extent=huge))
    assert len(batches(known, Workload("bert", 60, 1))) < 300
    assert batches(known, Workload("bert", 60, 1, 100))[-1] == 100
    with pytest.raises(Infeasible, match="cannot be met at any rate"):
        pack([Workload("bert", 1e-3, 1)], {"bert": known}, Terms())
    assert len(pack([Workload("bert", 60, 1e-171)], KNOWN, Terms()).gpus) == 1


def test_a_large_problem_is_planned_with_a_limited_effort_and_the_same_every_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    spent = []
    ask = solver._ask

    def counted(*arguments: Any) -> Any:
        answer = ask(*arguments)
        spent.append(answer[1])
        return answer

    monkeypatch.setattr(solver, "_ask", counted)
    known, wanted = {}, []
    for number in range(40):
        name = f"m{number:02}"
        known[name] = replace(KNOWN[sorted(KNOWN)[number % 4]], model=name)
        wanted.append(replace(WORKLOADS[number % 4], model=name, rate=WORKLOADS[number % 4].rate * 8))
    plan = pack(wanted, known, Terms())
    assert 15 < len(plan.gpus) < 40
    # The solver may overrun its limit by a little.
    assert 0 < sum(spent) < EFFORT * 1.1
    assert document(pack(wanted[::-1], known, Terms()), Terms()) == document(plan, Terms())


def test_an_empty_plan_is_one() -> None:
    assert pack([], KNOWN, Terms()) == Packing((), 0)


def test_known_models() -> None:
    assert set(KNOWN) == set(TRUTHS)
