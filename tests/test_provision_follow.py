"""Following the load: the dead band, what follows it on the GPUs that run, and days of a trace."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import pytest
from profiled import rows

from tritonkit.bench.arrivals import Rates, Times
from tritonkit.errors import UsageError
from tritonkit.provision.changes import Change
from tritonkit.provision.choices import MOST_LOAD, Terms, Workload
from tritonkit.provision.controller import Decision, Observation, Policy, State, applied, step
from tritonkit.provision.fleet import Place, fleet, held, placed
from tritonkit.provision.following import Look, look
from tritonkit.provision.observing import latencies_p99_ms, observed, told
from tritonkit.provision.packing import pack
from tritonkit.provision.prediction import behaviours, neighbours_of, predict
from tritonkit.spec.servers import Server

KNOWN = behaviours(rows())
SLOS = {"bert": 60.0, "mobilenet": 12.0, "resnet50": 30.0}
POLICY = Policy()
TERMS = Terms(gpus=8)
INTERVAL = 20.0


def workloads(rates: Mapping[str, float], batches: Mapping[str, int] | None = None) -> list[Workload]:
    return [Workload(model, SLOS[model], rate, (batches or {}).get(model)) for model, rate in rates.items()]


def seen(**rates: float | tuple[float, float]) -> dict[str, Observation]:
    """Rates of models; two figures are the rate and the p99 in ms."""
    return {
        model: Observation(*each) if isinstance(each, tuple) else Observation(each) for model, each in rates.items()
    }


@dataclass
class Bert:
    """The dead band around one model, whose plans are always made."""

    state: State
    policy: Policy = POLICY

    def look(self, rate: float, now: float, p99: float | None = None) -> Decision:
        self.state, decision = step(self.state, {"bert": Observation(rate, p99)}, SLOS, now, self.policy)
        if decision.rates:
            self.state = replace(applied(self.state, decision, ["bert"]), changed=now)
        return decision


def test_noise_within_the_band_changes_nothing() -> None:
    random = np.random.default_rng(1)
    bert = Bert(State({"bert": 125.0}))
    for number in range(5000):
        assert not bert.look(random.poisson(100 * INTERVAL) / INTERVAL, number * INTERVAL, 40.0).rates


@pytest.mark.parametrize("origin", [0.0, 1e6, -1e6])
def test_a_rise_counts_at_once_and_a_fall_after_a_while(origin: float) -> None:
    bert = Bert(State({"bert": 125.0}))
    assert bert.look(130.0, origin).rates == {"bert": pytest.approx(130 * 1.25)}
    # No second change before it was seen what the first one did.
    resting = bert.look(500.0, origin + POLICY.rest_s / 2)
    assert (resting.rates, resting.resting_s) == ({}, POLICY.rest_s / 2)
    after = bert.look(500.0, origin + POLICY.rest_s + 1)
    assert (after.rates, after.resting_s) == ({"bert": 625}, 0)
    now, fell = origin + POLICY.rest_s + 1, Decision()
    began = now
    while not fell.rates:
        now += INTERVAL
        fell = bert.look(100.0, now)
    assert POLICY.patience_s <= now - began < POLICY.patience_s + 300
    assert 100 * 1.25 <= fell.rates["bert"] < 140


def test_a_short_pause_takes_nothing_away() -> None:
    bert = Bert(State({"bert": 125.0}))
    for number in range(200):
        # Ten minutes idle in pieces, never at a stretch.
        assert not bert.look(10.0 if number % 20 else 100.0, number * INTERVAL).rates


def test_a_p99_over_its_slo_asks_for_more_than_the_plan_was_for() -> None:
    decision = Bert(State({"bert": 125.0})).look(100.0, 0, p99=61.0)
    assert decision.rates == {"bert": 125 * 1.25}
    assert decision.reasons == ("bert: p99 of 61 ms, over its SLO of 60 ms",)
    assert not Bert(State({"bert": 125.0})).look(100.0, 0, p99=59.0).rates


def test_a_p99_that_stays_over_its_slo_is_not_given_more_without_end() -> None:
    bert = Bert(State({"bert": 125.0}))
    given, said = [], Decision()
    for number in range(1000):
        said = bert.look(100.0, number * INTERVAL, p99=61.0)
        given += [said.rates["bert"]] if said.rates else []
    assert given == pytest.approx([125 * 1.25, 125 * 1.25**2, 125 * 1.25**3])
    assert said.notes == (
        "bert: p99 of 61 ms, over its SLO of 60 ms, and planning for 2 times its rate has not helped: more of a GPU "
        "will not",
    )
    # What it needs is known from then on: it is neither taken away for having too much, nor forgotten by a rise.
    assert bert.look(300.0, 1000 * INTERVAL, p99=70.0).rates == {"bert": pytest.approx(300 * 1.25 * 1.25**3)}


def test_nothing_is_taken_from_what_is_late() -> None:
    for p99, taken in ((59.0, True), (61.0, False)):
        bert = Bert(State({"bert": 1000.0}, margins={"bert": 1.25**3}))
        found = [bert.look(100.0, number * INTERVAL, p99=p99).rates for number in range(60)]
        assert any(found) is taken


def test_what_a_p99_was_given_is_kept_while_it_helps_and_forgotten_in_hours() -> None:
    bert = Bert(State({"bert": 125.0}))
    assert bert.look(100.0, 0, p99=61.0).rates
    for number in range(1, int(POLICY.forget_s / INTERVAL) + 1):
        assert not bert.look(100.0, number * INTERVAL, p99=59.0).rates
        assert bert.state.margins == {"bert": POLICY.tighter}
    bert.look(100.0, POLICY.forget_s + 2 * INTERVAL, p99=59.0)
    assert bert.state.margins == {}


def test_only_what_left_its_band_is_planned_anew() -> None:
    _, decision = step(State({"bert": 125.0, "resnet50": 300.0}), seen(bert=200, resnet50=250), SLOS, 0, POLICY)
    assert decision.rates == {"bert": 250}
    assert decision.reasons == ("bert: 200/s, planned for 125/s",)


def place(model: str, gpu: int | None, percentage: float | None, **more: Any) -> Place:
    return Place(more.pop("server", model), gpu, percentage, more.pop("models", (model,)), **more)


@dataclass
class Watched:
    """Servers that are followed: what a look says is done to them."""

    places: list[Place]
    wanted: list[Workload]
    terms: Terms = TERMS
    policy: Policy = POLICY
    state: State = field(default_factory=State)
    now: float = 0.0

    def look(self, found: Mapping[str, Observation], *, apply: bool | int = True) -> Look:
        """A look, and its changes: all, none, or so many, and nobody says what became of the others."""
        self.state, told = look(
            self.state, self.places, found, self.wanted, KNOWN, self.terms, self.now, self.policy
        )  # fmt: skip
        self.now += INTERVAL
        if apply is True and told.changes:
            self.state = told.made(self.now)
        for change in told.changes[: None if apply is True else apply]:
            (server,) = [each for each in self.places if each.server == change.server]
            assert server.thread_percentage == change.before
            assert server.gpu == change.gpu
            self.places[self.places.index(server)] = replace(server, thread_percentage=change.after)
            assert all(sum(given) <= 100 for given in self.given().values())
        return told

    def given(self) -> dict[Any, list[float]]:
        found: dict[Any, list[float]] = {}
        for each in self.places:
            found.setdefault(each.gpu, []).append(each.thread_percentage or 0)
        return found

    def percentage(self, server: str) -> float | None:
        return next(each.thread_percentage for each in self.places if each.server == server)

    def rates(self) -> dict[str, float]:
        return held(fleet(self.places, self.wanted, KNOWN), self.terms)


BATCHES = {"bert": 4, "mobilenet": 8, "resnet50": 4}


def watched(*places: Place, **more: Any) -> Watched:
    models = {model for each in places for model in each.models} & set(SLOS)
    return Watched(list(places), workloads(dict.fromkeys(sorted(models), 1.0), BATCHES), **more)


def test_percentages_follow_where_they_can() -> None:
    following = watched(place("bert", 0, 25), place("mobilenet", 0, 20))
    before = following.rates()
    told = following.look(seen(bert=before["bert"] * 0.7, mobilenet=before["mobilenet"] * 1.2))
    (change,) = told.changes
    assert (change.server, change.gpu, change.before) == ("mobilenet", 0, 20)
    assert change.after > 20
    # What it has now holds what was planned for, and a step less would not.
    planned = before["mobilenet"] * 1.2 * 1.25
    assert following.rates()["mobilenet"] >= planned
    less = watched(place("bert", 0, 25), place("mobilenet", 0, change.after - 5))
    assert less.rates()["mobilenet"] < planned
    assert following.rates()["bert"] >= before["bert"] * 0.7


def test_what_a_neighbour_holds_less_beside_others_is_known() -> None:
    following = watched(place("bert", 0, 25), place("mobilenet", 0, 20), policy=Policy(rest_s=0))
    before = following.rates()
    following.look(seen(bert=before["bert"] * 0.5, mobilenet=before["mobilenet"] * 1.2))
    after = following.rates()["bert"]
    assert after < before["bert"]
    assert following.look(seen(bert=after * 0.99)).decision.rates == {}
    assert following.look(seen(bert=(after + before["bert"]) / 2)).decision.rates.keys() == {"bert"}


def test_replicas_hold_what_the_weakest_of_them_does() -> None:
    strong, weak = place("bert", 0, 60, server="a"), place("bert", 1, 20, server="b")
    wanted = workloads({"bert": 1.0}, BATCHES)
    found = [held(fleet(places, wanted, KNOWN), TERMS)["bert"] for places in ((strong, weak), (weak, strong))]
    swapped = (replace(strong, gpu=1), replace(weak, gpu=0))
    assert held(fleet(swapped, wanted, KNOWN), TERMS)["bert"] == found[0] == found[1]
    both = held(fleet((weak, replace(weak, server="a", gpu=0)), wanted, KNOWN), TERMS)["bert"]
    assert found[0] == both == pytest.approx(2 * held(fleet([weak], wanted, KNOWN), TERMS)["bert"], rel=1e-4)


def test_the_gpu_and_the_server_are_those_of_the_machine() -> None:
    # GPU 0 has nothing that is followed, and GPU 7 is not the second one.
    places = (
        place("rest", 0, 90), place("bert", 3, 25), place("mobilenet", 7, 20, server="mobile-gpu7"),
    )  # fmt: skip
    following = watched(*places)
    (change,) = following.look(seen(mobilenet=following.rates()["mobilenet"] * 1.1)).changes
    assert (change.server, change.gpu) == ("mobile-gpu7", 7)
    assert str(change).startswith("mobilenet on GPU 7: 20 % -> ")


def test_what_shrinks_goes_first_so_that_no_gpu_is_given_out_twice() -> None:
    following = watched(place("bert", 0, 60), place("mobilenet", 0, 40), policy=Policy(patience_s=0))
    before = following.rates()
    told = following.look(seen(bert=20, mobilenet=before["mobilenet"] * 1.1))
    assert [change.server for change in told.changes] == ["bert", "mobilenet"]
    assert told.changes[0].after < 60
    assert told.changes[1].after > 40


def test_servers_without_an_slo_give_way_and_get_it_back() -> None:
    rest = place("other", 0, 55, server="rest", asked=55)
    following = watched(place("bert", 0, 25), place("mobilenet", 0, 20), rest, policy=Policy(rest_s=0))
    bert = following.rates()["bert"] * 0.7
    high, low = following.rates()["mobilenet"] * 1.5, following.rates()["mobilenet"] * 0.2
    (first, second) = following.look(seen(bert=bert, mobilenet=high)).changes
    assert (first.server, second.server) == ("rest", "mobilenet")
    assert first.after == 100 - 25 - second.after < 55
    following.policy = Policy(patience_s=0, rest_s=0, smoothing=1.0, spare=3)
    (first, second) = following.look(seen(mobilenet=low)).changes
    assert (first.server, second.server, second.after) == ("mobilenet", "rest", 55)
    full = following.look(seen(mobilenet=1e6))
    assert full.changes == ()
    assert "GPU" in full.beyond
    assert following.percentage("rest") == 55


def test_a_step_is_left_to_servers_without_an_slo() -> None:
    most, whole = (watched(place("mobilenet", 0, percentage)).rates()["mobilenet"] for percentage in (95, 100))
    exact = Policy(headroom=0.0, rest_s=0)
    alone = watched(place("mobilenet", 0, 80), policy=exact)
    assert [change.after for change in alone.look(seen(mobilenet=(most + whole) / 2)).changes] == [100]
    both = [place("mobilenet", 0, 80), place("other", 0, 20, server="rest")]
    told = watched(*both, policy=exact).look(seen(mobilenet=(most + whole) / 2))
    assert (told.changes, "cannot follow mobilenet" in told.beyond) == ((), True)
    first, second = watched(*both, policy=exact).look(seen(mobilenet=most * 0.999)).changes
    assert (first.server, first.after, second.after) == ("rest", 5, 95)


def test_one_model_that_does_not_fit_holds_up_no_other() -> None:
    following = watched(
        place("bert", 0, 60), place("mobilenet", 0, 20), place("resnet50", 1, 30), policy=Policy(rest_s=0)
    )
    before = following.rates()
    asked = seen(bert=before["bert"] * 2, mobilenet=before["mobilenet"] * 1.2, resnet50=before["resnet50"] * 1.2)
    told = following.look(asked)
    assert {"mobilenet", "resnet50"} <= {change.server for change in told.changes}
    assert "cannot follow bert; a plan with other places needs " in told.beyond
    for model in ("mobilenet", "resnet50"):
        assert following.rates()[model] >= before[model] * 1.2 * 1.25
    # It keeps at least what it had, beside neighbours that have more now.
    assert following.rates()["bert"] >= following.state.planned["bert"] == pytest.approx(before["bert"])
    # It is asked for again, and the others are not.
    again = following.look(asked)
    assert again.changes == ()
    assert [reason.partition(":")[0] for reason in again.decision.reasons] == ["bert"]


def test_what_does_not_fit_is_not_taken_to_have_been_tried() -> None:
    following = watched(place("bert", 0, 50), place("mobilenet", 0, 50))
    assert "cannot follow bert" in following.look(seen(bert=(1.0, 61.0))).beyond
    assert following.state.margins == {}


def test_a_restart_knows_the_plan_by_its_percentages_and_not_by_the_spec() -> None:
    shrunk = watched(place("resnet50", 0, 10))
    shrunk.wanted = workloads({"resnet50": 3000.0}, BATCHES)
    capacity = shrunk.rates()["resnet50"]
    assert 0 < capacity < 1000
    (change,) = shrunk.look(seen(resnet50=capacity * 1.3)).changes
    assert change.after > 10
    # And back: what was grown is taken away again, although the spec asks for it all.
    grown = watched(place("resnet50", 0, 80), policy=Policy(patience_s=0))
    grown.wanted = workloads({"resnet50": grown.rates()["resnet50"]}, BATCHES)
    (change,) = grown.look(seen(resnet50=10.0)).changes
    assert change.after < 80


def test_what_percentages_hold_is_what_the_predictor_says() -> None:
    current = fleet([place("bert", 0, 30), place("mobilenet", 0, 40)], workloads({"bert": 1, "mobilenet": 1}), KNOWN)
    (share,) = current
    together = [(choice.behaviour, float(choice.thread_percentage)) for choice in share.choices]
    for index, choice in enumerate(share.choices):
        rate = held(current, TERMS)[choice.workload.model]
        over = []
        for factor in (0.999, 1.01):
            run = predict(
                choice.behaviour, choice.batch_size, choice.thread_percentage, neighbours_of(index, together),
                rate * factor,
            )  # fmt: skip
            over.append(run.latency_p99_ms > choice.workload.slo_ms or run.load > MOST_LOAD)
        assert over == [False, True]


def test_changes_that_others_make_are_seen() -> None:
    following = watched(place("bert", 0, 25), place("mobilenet", 0, 20), policy=Policy(rest_s=0))
    rates = following.rates()
    asked = seen(bert=rates["bert"] * 0.9, mobilenet=rates["mobilenet"] * 0.6)
    assert not following.look(asked).decision.rates
    # Somebody takes from it (`tritonkit mps set`): what was enough is too little now.
    following.places[0] = replace(following.places[0], thread_percentage=15)
    (change,) = following.look(asked).changes
    assert (change.server, change.before) == ("bert", 15)
    # A look whose changes nobody makes says the same again.
    dry = watched(place("bert", 0, 25), place("mobilenet", 0, 20), policy=Policy(rest_s=0))
    told = [dry.look(seen(bert=rates["bert"] * 1.2), apply=False).changes for _ in range(2)]
    assert told[0] == told[1] != ()


def test_the_rest_begins_when_the_last_change_was_made() -> None:
    following = watched(place("bert", 0, 25), place("mobilenet", 0, 20))
    rates = following.rates()
    following.now = 1000.0
    assert following.look(seen(bert=rates["bert"] * 1.2)).changes
    # The changes took as long as all of an interval.
    assert following.look(seen(bert=rates["bert"] * 2)).decision.resting_s == POLICY.rest_s


def test_what_was_not_changed_was_not_tried() -> None:
    dry = watched(place("bert", 0, 25), place("mobilenet", 0, 20))
    rates = dry.rates()
    late = seen(bert=(rates["bert"] * 0.9, 61.0), mobilenet=rates["mobilenet"] * 0.9)
    looks = [dry.look(late, apply=False) for _ in range(20)]
    assert {look.changes for look in looks} == {looks[0].changes} != {()}
    assert [look.decision.notes for look in looks] == [()] * 20
    assert (dry.state.margins, dry.state.changed) == ({}, float("-inf"))
    # Once it is changed, and does not help, that is said.
    notes = [note for _ in range(20) for note in dry.look(late).decision.notes]
    assert "has not helped" in notes[0]


def test_changes_that_are_made_in_part_are_completed_at_the_next_look() -> None:
    rest = place("other", 0, 75, server="rest", asked=75)
    following = watched(place("mobilenet", 0, 20), rest)
    asked = seen(mobilenet=(following.rates()["mobilenet"] * 1.5, 13.0))
    first = following.look(asked, apply=1)
    assert [change.server for change in first.changes] == ["rest", "mobilenet"]
    (second,) = following.look(asked).changes
    assert second == first.changes[1]
    # It counts as one change.
    assert following.state.margins == {}


def test_what_cannot_be_followed_is_said_now_and_then_and_holds_up_nothing() -> None:
    following = watched(place("bert", 0, 60), place("mobilenet", 1, 20))
    before = following.rates()
    much = seen(bert=before["bert"] * 2)
    first = following.look(much)
    assert (first.changes, first.left, "cannot follow bert" in first.beyond) == ((), ("bert",), True)
    # Nothing was changed, so nothing has to rest.
    second = following.look({**much, **seen(mobilenet=before["mobilenet"] * 1.2)})
    assert [change.server for change in second.changes] == ["mobilenet"]
    assert (second.left, second.beyond) == (("bert",), "")
    following = watched(place("bert", 0, 60), place("mobilenet", 1, 20))
    said = [bool(following.look(much).beyond) for _ in range(7)]
    assert said == [True, False, False, True, False, False, True]
    # Of other models it is said at once.
    both = following.look({**much, **seen(mobilenet=before["mobilenet"] * 10)})
    assert (both.left, both.beyond != "") == (("bert", "mobilenet"), True)


def test_a_gpu_whose_rates_stay_is_left_alone() -> None:
    # 33 % is no multiple of a step; only what shares a GPU with a change is rounded.
    following = watched(place("bert", 0, 33), place("mobilenet", 1, 20))
    (change,) = following.look(seen(mobilenet=following.rates()["mobilenet"] * 1.1)).changes
    assert change.server == "mobilenet"


def test_what_holds_its_slo_at_no_rate_is_said_once() -> None:
    # An item takes longer at 10 % than the objective allows.
    following = watched(place("bert", 0, 10), place("resnet50", 1, 30))
    following.wanted = [replace(each, slo_ms=2.0 if each.model == "bert" else each.slo_ms) for each in following.wanted]
    first = following.look(seen(bert=0, resnet50=0))
    assert first.decision.notes == ("bert: what runs holds its SLO at no rate",)
    assert following.look(seen(bert=0, resnet50=0)).decision.notes == ()
    # Somebody changes percentages: what runs is looked at anew.
    following.places[1] = replace(following.places[1], thread_percentage=60)
    assert following.look(seen(bert=0, resnet50=0)).decision.notes == first.decision.notes
    asked = following.look(seen(bert=50, resnet50=0))
    assert (asked.decision.reasons, asked.decision.notes) == (("bert: 50/s, what runs holds its SLO at no rate",), ())


ENTRIES = (
    Server("bert", 0, ("bert",), (0, "GPU-bbbb"), 25),
    Server("bert-rest", 1, ("other",), (1,), 40),
)
UUIDS = {0: "GPU-aaaa-1", 1: "GPU-bbbb-2"}
SERVED = (
    place("bert", 0, 25, server="bert-gpu0", uuid=UUIDS[0]),
    place("bert", 1, 30, server="bert-gpu1", uuid=UUIDS[1]),
    place("other", 1, 10, server="bert-rest", uuid=UUIDS[1]),
)


def test_servers_are_those_of_the_plan_by_name_and_gpu() -> None:
    found = placed(SERVED, ENTRIES, ["bert"])
    assert [(each.server, each.gpu, each.thread_percentage, each.asked) for each in found] == [
        ("bert-gpu0", 0, 25, 25), ("bert-gpu1", 1, 30, 25), ("bert-rest", 1, 10, 40),
    ]  # fmt: skip
    # On the CPU it is what it would be.
    (there,) = placed([place("bert", None, None)], [Server("bert", 0, ("bert",), (2,), 35)], ["bert"])
    assert (there.gpu, there.thread_percentage) == (2, 35)


@pytest.mark.parametrize("gpu", [0, 1])
@pytest.mark.parametrize("wanted", [["mobilenet"], ["bert", "mobilenet"]])
def test_a_model_that_an_ensemble_brings_along_is_no_replica(gpu: int, wanted: list[str]) -> None:
    # ``bert`` is an ensemble that runs ``mobilenet``, with an objective of its own or without.
    entries = [Server("small", 0, ("mobilenet",), (0,), 40), Server("other", 1, ("bert",), (gpu,), 50)]
    running = [
        place("mobilenet", 0, 40, server="small"),
        place("bert", gpu, 50, server="other", models=("bert", "mobilenet")),
    ]
    places = placed(running, entries, wanted)
    assert [each.models for each in places] == [("mobilenet",), ("bert",)]
    shares = fleet(places, workloads(dict.fromkeys(wanted, 1.0), BATCHES), KNOWN)
    found = {choice.workload.model: (choice.replicas, each.server) for share in shares
             for choice, each in zip(share.choices, share.places, strict=True)}  # fmt: skip
    assert (
        found == {"mobilenet": (1, "small"), "bert": (1, "other")} if "bert" in wanted else {"mobilenet": (1, "small")}
    )
    assert [each.server for each in shares[0].others] == (["other"] if wanted == ["mobilenet"] and gpu == 0 else [])


@pytest.mark.parametrize(
    ("places", "entries", "words"),
    [
        (SERVED, ENTRIES[1:], "the spec has no server with a GPU for bert"),
        (SERVED, ENTRIES[:1], None),
        ((*SERVED, place("x", 0, 5)), ENTRIES, "x runs here, and neither spec nor plan has such a server"),
        (SERVED[1:], ENTRIES, "the plan has bert on more GPUs than it runs on here"),
        (SERVED[:2], ENTRIES, "the plan has bert-rest on more GPUs"),
        ((replace(SERVED[0], gpu=5, uuid="GPU-cc"), *SERVED[1:]), ENTRIES,
         "bert-gpu0 runs on GPU 5, and on 0, GPU-bbbb in the plan"),
        ((replace(SERVED[0], models=("other",)), *SERVED[1:]), ENTRIES, "bert-gpu0 serves other here, and bert in"),
    ],
)  # fmt: skip
def test_a_plan_that_is_not_the_one_that_runs_is_refused(
    places: Sequence[Place], entries: Sequence[Server], words: str | None
) -> None:
    if words is None:
        # Its name begins as that of a replica, and is none's.
        words = "bert-rest runs here, and neither spec nor plan has such a server"
    with pytest.raises(UsageError, match=words):
        placed(places, entries, ["bert"])


def test_what_no_plan_is_like_is_not_followed() -> None:
    wanted = workloads({"bert": 1, "mobilenet": 1})
    with pytest.raises(UsageError, match="one percentage cannot follow both"):
        fleet([place("both", 0, 30, models=("bert", "mobilenet"))], wanted, KNOWN)
    with pytest.raises(UsageError, match="bert has two servers on GPU 0"):
        fleet([place("bert", 0, 30, server="bert-r0"), place("bert", 0, 30, server="bert-r1")], wanted, KNOWN)


def test_the_plan_that_runs_is_known_from_its_servers() -> None:
    places = [
        place("mobilenet", 3, 20, server="b"), place("bert", 1, 30), place("mobilenet", 1, 40, server="c"),
        place("other", 0, 5), place("spare", 3, 30), place("free", 3, None),
    ]  # fmt: skip
    one, three = fleet(places, workloads({"bert": 150, "mobilenet": 400}, {"bert": 4, "mobilenet": 4}), KNOWN)
    assert (one.gpu, three.gpu) == (1, 3)
    assert [(each.server, choice.thread_percentage) for choice, each in zip(one.choices, one.places, strict=True)] == [
        ("bert", 30), ("c", 40),
    ]  # fmt: skip
    assert [each.server for each in three.others] == ["spare"]
    assert {choice.replicas for share in (one, three) for choice in share.choices} == {1, 2}
    assert {choice.batch_size for share in (one, three) for choice in share.choices} == {4}
    assert str(Change("b", "mobilenet", 3, 20, 37.5)) == "mobilenet on GPU 3: 20 % -> 37.5 %"


def counted(requests: int, items: int, failed: int = 0, cached: int = 0) -> dict[str, Any]:
    counts = {"success": requests, "fail": failed, "cache_hit": cached}
    version = {
        "name": "bert",
        "inference_count": items,
        "execution_count": requests,
        "inference_stats": {name: {"count": count, "ns": 0} for name, count in counts.items()},
    }
    return {"bert": {"model_stats": [version]}}


def test_rates_are_differences_in_items_of_each_server() -> None:
    before = {"a": counted(1000, 8000), "b": counted(500, 4000)}
    after = {"a": counted(1500, 12_000), "b": counted(600, 4800)}
    both = {"a": ["bert", "none"], "b": ["bert"]}
    assert observed(before, after, 10.0, both, {"bert": 7.0}) == {"bert": Observation(480.0, 7.0)}
    # Who missed a look is not taken to have done everything since its start meanwhile.
    assert observed({"a": before["a"]}, after, 10.0, both, {}) == {"bert": Observation(400.0)}
    # Who was started anew counts what it did since.
    assert observed(before, {"a": counted(20, 160), "b": after["b"]}, 10.0, both, {})["bert"].rate == 96.0
    assert observed(before, {}, 10.0, both, {}) == {}
    assert observed(before, after, 0.0, both, {}) == {}


def test_what_an_ensemble_asks_of_its_members_is_its_own() -> None:
    before, after = {"a": counted(0, 0), "b": counted(0, 0)}, {"a": counted(100, 100), "b": counted(700, 700)}
    # Only ``a`` has the model; ``b`` has an ensemble that runs it.
    assert observed(before, after, 10.0, {"a": ["bert"], "b": ["other"]}, {}) == {"bert": Observation(10.0)}
    with telling(summary("bert", "2000")) as own, telling(summary("bert", "9000")) as ensemble:
        assert latencies_p99_ms({own: ["bert"], ensemble: ["other"]}) == {"bert": 2.0}


def test_requests_that_fail_were_asked_for_and_cached_ones_cost_nothing() -> None:
    before, one = {"a": counted(0, 0)}, {"a": ["bert"]}
    assert observed(before, {"a": counted(100, 800, failed=50)}, 10.0, one, {})["bert"].rate == 120.0
    assert observed(before, {"a": counted(0, 0, failed=50)}, 10.0, one, {})["bert"].rate == 5.0
    assert observed(before, {"a": counted(100, 400, cached=50, failed=10)}, 10.0, one, {})["bert"].rate == 48.0


def summary(model: str, value: str, version: int = 1) -> str:
    return f'nv_inference_request_summary_us{{model="{model}",version="{version}",quantile="0.99"}} {value}\n'


def test_the_p99_is_read_off_tritons_summaries() -> None:
    text = (
        "# TYPE nv_inference_request_summary_us summary\n"
        'nv_inference_request_summary_us_count{model="bert",version="1"} 3\n'
        'nv_inference_request_summary_us{model="bert",version="1",quantile="0.5"} 812\n'
        + summary("bert", "2514") + summary("bert", "1200", 2) + summary("idle", "Nan")
    )  # fmt: skip
    assert told(text) == {"bert": 2.514}
    assert told("") == {}


@contextmanager
def telling(text: str) -> Iterator[str]:
    """A server that tells these metrics; its address."""

    class Metrics(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path == "/metrics" else 404)
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Metrics) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def test_the_p99_is_that_of_the_slowest_server() -> None:
    with telling(summary("bert", "9000")) as slow, telling(summary("bert", "2000") + summary("x", "5")) as fast:
        both = ["bert", "x"]
        assert latencies_p99_ms({slow: both, "127.0.0.1:1": both, fast: both}) == {"bert": 9.0, "x": 0.005}
        assert latencies_p99_ms({fast: both, slow: both})["bert"] == 9.0


@dataclass
class Day:
    """What days of a trace did to servers that follow the load."""

    changes: int = 0
    restarts: int = 0
    intervals: int = 0
    late: int = 0
    beyond: int = 0
    percent: float = 0.0
    most: float = 0


def predicted(following: Watched, rates: Mapping[str, float]) -> dict[str, float]:
    """The p99 of each model at the rates that it really has, by the predictor."""
    found: dict[str, float] = {}
    for share in fleet(following.places, following.wanted, KNOWN):
        together = [(choice.behaviour, float(choice.thread_percentage)) for choice in share.choices]
        for index, choice in enumerate(share.choices):
            model = choice.workload.model
            run = predict(
                choice.behaviour, choice.batch_size, choice.thread_percentage, neighbours_of(index, together),
                rates[model] / choice.replicas,
            )  # fmt: skip
            found[model] = max(found.get(model, 0.0), min(run.latency_p99_ms, 10_000.0))
    return found


def simulate(trace: Mapping[str, Times], peak: Mapping[str, float], policy: Policy) -> Day:
    """Days of a trace, followed as the command does it, on the places of a plan for the peak."""
    random = np.random.default_rng(42)
    plan = pack(workloads(peak), KNOWN, TERMS)
    batches = {seat.model: seat.choice.batch_size for _, seat in plan.seats}
    places = [
        place(seat.model, gpu, seat.choice.thread_percentage, server=f"{seat.model}-gpu{gpu}")
        for gpu, seat in plan.seats
    ]
    following = Watched(places, workloads(peak, batches), policy=policy)
    told = Day()
    for number in range(len(next(iter(trace.values())))):
        rates = {model: float(series[number]) for model, series in trace.items()}
        p99 = predicted(following, rates)
        told.intervals += 1
        told.late += any(p99[model] > SLOS[model] for model in rates)
        used = sum(each.thread_percentage or 0 for each in following.places)
        told.percent += used
        told.most = max(told.most, used)
        looked = following.look(
            {
                model: Observation(random.poisson(rate * INTERVAL) / INTERVAL, p99[model])
                for model, rate in rates.items()
            }
        )
        told.changes += bool(looked.changes)
        told.restarts += len(looked.changes)
        told.beyond += bool(looked.beyond)
    told.percent /= told.intervals
    print(told)
    return told


def test_three_days_of_a_daily_rhythm_are_followed_with_few_changes() -> None:
    count = int(3 * 86_400 / INTERVAL)
    hours = np.arange(count) * INTERVAL / 3600
    random = np.random.default_rng(42)
    rhythm = 1 - 0.75 * np.cos(2 * np.pi * hours / 24)
    mean = {"bert": 120, "mobilenet": 900, "resnet50": 300}
    trace = {model: rate * rhythm * random.lognormal(0, 0.05, count) for model, rate in mean.items()}
    found = simulate(trace, {model: rate * 1.75 * 1.5 for model, rate in mean.items()}, POLICY)
    # The rate changes sevenfold up and down each day; that takes steps, and no flapping.
    assert 6 <= found.changes <= 3 * 60
    assert found.late / found.intervals < 0.01
    assert found.beyond == 0
    assert found.percent < 0.9 * found.most


def test_a_day_of_bursts_settles_for_the_busy_times() -> None:
    count = int(86_400 / INTERVAL)
    rates = Rates("burst").draw(count, np.random.default_rng(42))
    trace = {"mobilenet": 4 * rates, "resnet50": 2 * rates}
    peak = {"mobilenet": 8 * float(rates.max()), "resnet50": 4 * float(rates.max())}
    found = simulate(trace, peak, POLICY)
    # Busy and quiet times follow each other within a minute: what a burst needs is not taken away between two.
    assert found.changes < 60
    assert found.late / found.intervals < 0.01
    some = {model: series[:200] for model, series in trace.items()}
    eager = simulate(some, peak, Policy(patience_s=0, rest_s=0, smoothing=1.0, spare=1.0))
    assert eager.changes > 3 * max(simulate(some, peak, POLICY).changes, 1)
