"""What is known of a model: profile files, the curves fitted to them, neighbours, and waiting."""

from __future__ import annotations

import math
import random
from dataclasses import replace
from itertools import accumulate
from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from profiled import TRUTHS, Truth, rows

from tritonkit.errors import SpecError
from tritonkit.provision.curves import TABLE_ERROR, curve
from tritonkit.provision.prediction import Neighbour, behaviours, gpu_memory_mib, predict
from tritonkit.provision.profiles import COLUMNS, Beside, Key, Row, read, write
from tritonkit.provision.queueing import longest_ms, wait_ms

HEADER = "model,thread_percentage,batch_size,latency_ms"


def profile(folder: Path, *lines: str, header: str = HEADER) -> Path:
    file = folder / "profiles.csv"
    file.write_text("\n".join([header, *lines]) + "\n")
    return file


def refusal(file: Path) -> list[str]:
    with pytest.raises(SpecError) as caught:
        read(file)
    return [str(fault).removeprefix(f"{file}:") for fault in caught.value.faults]


def test_a_profile_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    file = tmp_path / "deep/profiles.csv"
    written = rows()
    write(file, written)
    found = read(file)
    assert [row.key for row in found] == [row.key for row in written]
    assert [row.latency_ms for row in found] == pytest.approx([row.latency_ms for row in written], rel=1e-5)
    assert file.read_text().splitlines()[0] == ",".join(COLUMNS)
    # Nothing is left beside it, and writing again changes nothing.
    before = file.read_bytes()
    write(file, found)
    assert (file.read_bytes(), list(file.parent.iterdir())) == (before, [file])


def test_a_profile_from_elsewhere_may_have_other_columns_in_any_order(tmp_path: Path) -> None:
    file = profile(tmp_path, "a, 7.5 ,10,1,resnet18", header="gpu_name,latency_ms,thread_percentage,batch_size,model")
    assert read(file) == (Row(Key("resnet18", 10, 1), 7.5, others=(("gpu_name", "a"),)),)
    file.write_bytes(b"\xef\xbb\xbf" + f"{HEADER}\r\nresnet18,10,1,7.5\r\n".encode())
    assert read(file) == (Row(Key("resnet18", 10, 1), 7.5),)


@pytest.mark.parametrize(
    ("lines", "faults"),
    [
        (["m,10,1,0"], ["2: latency_ms: expected a number above 0, found '0'"]),
        (["m,10,1,-3"], ["2: latency_ms: expected a number above 0, found '-3'"]),
        (["m,10,1,nan"], ["2: latency_ms: expected a number above 0, found 'nan'"]),
        (["m,10,1,fast"], ["2: latency_ms: expected a number, found 'fast'"]),
        (["m,10,1,"], ["2: latency_ms: is missing"]),
        ([",10,1,5"], ["2: model: is missing"]),
        (["m,110,1,5"], ["2: thread_percentage: expected at most 100, found '110'"]),
        (["m,10,1.5,5"], ["2: batch_size: expected a whole number, found '1.5'"]),
        (["m,10,1,5,6"], ["2: has more cells than there are columns"]),
        (["m,10,1,5", "m,10,2,6", "m,10.0,1,7"], ["4: m at 10 %, batch 1 is given twice; it first stands on line 2"]),
        ([], ["1: there is no line below the columns"]),
        (["m,0,1,5", "m,10,0,5"], [
            "2: thread_percentage: expected a number above 0, found '0'",
            "3: batch_size: expected a number above 0, found '0'",
        ]),
    ],
)  # fmt: skip
def test_lines_that_are_wrong_are_named(tmp_path: Path, lines: list[str], faults: list[str]) -> None:
    assert refusal(profile(tmp_path, *lines)) == faults


def test_columns_and_cells_that_are_wrong_are_named(tmp_path: Path) -> None:
    (fault,) = refusal(profile(tmp_path, "m,5", header="model,latency"))
    assert fault.startswith("1: the columns thread_percentage, batch_size, latency_ms are missing")
    (fault,) = refusal(profile(tmp_path, "m,10,1,5,5", header=f"{HEADER},transfer_ms"))
    assert fault == "2: transfer_ms: expected less than latency_ms (5), found 5"
    (fault,) = refusal(profile(tmp_path, "m,10,1,5,resnet50", header=f"{HEADER},beside"))
    assert fault.startswith("2: beside: expected neighbours as in resnet50:30:8;bert:20:4")
    assert refusal(tmp_path / "none.csv") == [" no such profile file"]


@pytest.mark.parametrize("name", TRUTHS)
def test_nine_points_tell_the_curve_everywhere_between(name: str) -> None:
    truth = TRUTHS[name]
    found = behaviours(rows())[name].curve
    assert found.form == "fitted"
    assert found.notes == ()
    errors = [
        abs(found.latency_ms(batch, percentage) / truth.latency_ms(batch, percentage) - 1)
        for batch in range(1, truth.batches[-1] + 1)
        for percentage in range(10, 101, 5)
    ]
    # The points themselves are off by up to 1 %.
    assert sum(errors) / len(errors) < 0.015
    assert max(errors) < 0.05
    assert found.held_out is not None
    assert found.held_out < 0.03


def test_nothing_is_told_beyond_what_was_measured() -> None:
    found = behaviours(rows())["bert"].curve
    assert found.latency_ms(16, 10) < math.inf
    for batch, percentage in ((17, 50), (0, 50), (4, 9), (4, 101)):
        assert found.latency_ms(batch, percentage) == math.inf
    prediction = predict(behaviours(rows())["bert"], 17, 50, rate=1)
    assert (prediction.capacity, prediction.latency_p99_ms) == (0, math.inf)


def test_without_transfers_their_part_is_fitted_along() -> None:
    truth = replace(TRUTHS["resnet50"], item_ms=0.4)
    plain = [replace(row, transfer_ms=None) for row in rows({"resnet50": truth}, noise=0)]
    found = curve([row for row in plain if not row.key.beside])
    assert (found.form, found.transfer_ms(8)) == ("fitted", 0)
    assert found.max_error < 1e-3
    assert found.latency_ms(8, 60) == pytest.approx(truth.latency_ms(8, 60), rel=0.01)


def test_a_profile_that_goes_the_wrong_way_is_used_as_a_table() -> None:
    points = list(rows({"bert": TRUTHS["bert"]}, noise=0))
    slow = points[8]
    assert slow.key == Key("bert", 100, 16)
    points[8] = replace(slow, latency_ms=points[5].latency_ms * 1.5)
    found = curve(points)
    assert found.form == "table"
    assert found.notes[0].startswith("batch 16 takes ")
    assert found.notes[-1].endswith(": the table is used instead")
    for row in points:
        key = row.key
        assert found.latency_ms(key.batch_size, key.thread_percentage) == pytest.approx(row.latency_ms, rel=1e-3)
    # Half way from 1/30 to 1/100.
    between = found.latency_ms(16, 2 / (1 / 30 + 1 / 100))
    assert between == pytest.approx((points[5].latency_ms + points[8].latency_ms) / 2, rel=1e-3)
    assert found.latency_ms(17, 100) == math.inf
    assert found.latency_ms(16, 5) == math.inf


def test_a_poor_fit_is_told_and_not_used() -> None:
    # Latencies in stairs, as of a model that pads to 4 and 16.
    stairs = {1: 10.0, 2: 10.0, 4: 10.0, 5: 55.0, 8: 55.0, 16: 55.0}
    points = [
        Row(Key("padded", percentage, batch), time * 30 / percentage)
        for batch, time in stairs.items()
        for percentage in (10, 30, 100)
    ]
    found = curve(points)
    assert found.form == "table"
    assert found.max_error > 0.15
    assert "the fit is off by" in found.notes[-1]
    assert found.latency_ms(5, 30) == 55


def test_few_points_are_a_table() -> None:
    found = curve([Row(Key("m", 100, 1), 4.0), Row(Key("m", 100, 8), 18.0)])
    assert (found.form, found.latency_ms(4, 100), found.latency_ms(4, 90)) == ("table", 10.0, math.inf)
    assert found.notes == ("2 points only: the table is used as it is",)


@given(
    st.builds(
        Truth,
        k1=st.floats(0, 1),
        k2=st.floats(0.5, 300),
        k3=st.floats(1, 500),
        k4=st.floats(0, 40),
        k5=st.floats(0.05, 5),
        item_ms=st.floats(0, 0.2),
    ),
    st.sampled_from([0.0, 0.02]),
)
@settings(max_examples=40)
def test_a_fitted_curve_never_goes_the_wrong_way(truth: Truth, noise: float) -> None:
    found = curve(rows({"m": truth}, noise=noise))
    # Points without noise follow the form; with it a steep one may be told apart too badly.
    assert noise or found.form == "fitted"
    assume(found.form == "fitted")
    times = [[found.active_ms(batch, percentage) for batch in (1, 3, 9, 16)] for percentage in (10, 20, 45, 100)]
    for line in times:
        assert line == sorted(line)
    for column in zip(*times, strict=True):
        assert list(column) == sorted(column, reverse=True)


def test_neighbours_slow_a_model_down_as_they_were_measured_to() -> None:
    known = behaviours(rows())
    for name, truth in TRUTHS.items():
        for other, others in TRUTHS.items():
            if other == name:
                continue
            beside = predict(known[name], 4, 40, [Neighbour(known[other], 50)])
            expected = truth.latency_ms(4, 40, others.demand * 0.5, 1)
            assert beside.latency_ms == pytest.approx(expected, rel=0.08)
    three = [Neighbour(known[name], 25) for name in ("bert", "captioner", "resnet50")]
    expected = TRUTHS["mobilenet"].latency_ms(8, 25, (0.8 + 1.4 + 1.1) / 4, 3)
    assert predict(known["mobilenet"], 8, 25, three).latency_ms == pytest.approx(expected, rel=0.1)
    # Half as busy, half the pressure.
    idle = [replace(each, busy=0.0) for each in three]
    alone, busy = (predict(known["mobilenet"], 8, 25, beside).service_ms for beside in (idle, three))
    half = predict(known["mobilenet"], 8, 25, [replace(each, busy=0.5) for each in three]).service_ms
    assert half == pytest.approx((alone + busy) / 2)


def test_what_was_not_measured_is_assumed_and_told() -> None:
    plain = [Row(row.key, row.latency_ms) for row in rows() if not row.key.beside]
    found = behaviours(plain)["bert"]
    assert len(found.notes) == 3
    assert (found.alpha > 0, found.demand, found.efficiency, found.memory_mib) == (True, 1.0, 1.0, 0.0)
    assert gpu_memory_mib(plain) is None
    assert gpu_memory_mib(rows()) == 81_920
    # A model without neighbours in the profile is taken to be as bad as the worst one that has them.
    lone = rows({"lone": TRUTHS["bert"]})
    both = behaviours([*rows({name: TRUTHS[name] for name in ("mobilenet", "resnet50")}), *lone])
    assert both["lone"].alpha == max(both[name].alpha for name in ("mobilenet", "resnet50"))
    assert any("was not measured and is assumed" in note for note in both["lone"].notes)
    assert not both["resnet50"].notes


def test_a_profile_that_ends_early_is_told() -> None:
    for most, told in ((30, True), (100, False)):
        notes = behaviours([row for row in rows() if row.key.thread_percentage <= most])["bert"].notes
        words = f"it was profiled only up to {most} %: larger percentages might need fewer GPUs"
        assert (words in notes, any("profiled only up to" in note for note in notes)) == (told, told)


def test_as_many_points_as_coefficients_are_no_fit() -> None:
    # Anything passes through seven points, and nothing tells what lies between.
    points = [row for row in rows({"bert": TRUTHS["bert"]}) if not row.key.beside]
    few = curve(points[:7])
    assert (few.form, few.held_out) == ("table", None)
    assert few.notes == ("7 points only: the table is used as it is",)
    assert few.error == TABLE_ERROR
    enough = curve(points[:8])
    assert enough.form == "fitted"
    assert enough.held_out is not None
    assert enough.error == max(enough.held_out, enough.mean_error) > 0


def test_neighbours_that_follow_no_form_are_told_and_doubted() -> None:
    rng = random.Random(3)  # noqa: S311
    wild = [
        replace(row, latency_ms=row.latency_ms * rng.choice((1, 3.5))) if row.key.beside else row
        for row in rows(noise=0)
    ]
    tame, found = behaviours(rows(noise=0)), behaviours(wild)
    told = [name for name, each in found.items() if any("beside others" in note for note in each.notes)]
    assert told
    assert not any(each.notes for each in tame.values())
    for name in told:
        assert found[name].doubt > 10 * tame[name].doubt
        # Plans leave room for it, and what is expected does not change.
        beside = [Neighbour(found["bert"], 50)]
        sure, doubted = (predict(each, 4, 40, beside, 1) for each in (replace(found[name], doubt=0.0), found[name]))
        assert doubted.service_ms == sure.service_ms
        assert (doubted.takes_ms, doubted.wait_ms) > (sure.takes_ms, sure.wait_ms)


def test_no_influence_is_none_at_all() -> None:
    calm = {name: replace(truth, alpha=0.0, delay_ms=0.0) for name, truth in TRUTHS.items()}
    for each in behaviours(rows(calm, noise=0)).values():
        for value in (each.alpha, each.delay_ms, each.demand):
            assert value == 0 or value > 1e-6


def test_throughput_memory_and_clients_are_those_of_the_profile() -> None:
    points = [replace(row, throughput=row.throughput and 0.8 * row.throughput, clients=20) for row in rows(noise=0)]
    found, usual = behaviours(points)["bert"], behaviours(rows(noise=0))["bert"]
    assert (found.clients, found.memory_mib) == (20, 2600)
    assert found.efficiency == pytest.approx(0.8 * usual.efficiency)
    assert predict(found, 4, 50).capacity == pytest.approx(0.8 * predict(usual, 4, 50).capacity)


def test_a_neighbour_that_was_not_measured_alone_says_nothing() -> None:
    points = rows({"bert": TRUTHS["bert"]})
    points.append(Row(Key("bert", 30, 4, (Beside("ghost", 30, 4),)), 50.0))
    assert set(behaviours(points)) == {"bert"}


def test_fits_are_the_same_every_time() -> None:
    assert behaviours(rows()) == behaviours(list(reversed(rows())))


def simulated_p99(service: float, batch: int, rate: float, variation: float, requests: int = 100_000) -> float:
    """The p99 of what requests take and wait, at a server that takes all that wait; smaller batches are faster."""
    rng = random.Random(7)  # noqa: S311
    arrivals = list(accumulate(rng.expovariate(rate) for _ in range(requests)))
    shape = 1 / variation**2 if variation else 0.0
    times: list[float] = []
    free, index = 0.0, 0
    while index < len(arrivals):
        begin = max(free, arrivals[index])
        taken = index
        while taken < len(arrivals) and taken - index < batch and arrivals[taken] <= begin:
            taken += 1
        scatter = rng.gammavariate(shape, 1 / shape) if shape else 1.0
        free = begin + service * (0.7 + 0.3 * (taken - index) / batch) * scatter / 1000
        times += [free - arrival for arrival in arrivals[index:taken]]
        index = taken
    return sorted(times)[int(0.99 * len(times))] * 1000


@pytest.mark.parametrize("batch", [1, 2, 4, 16])
@pytest.mark.parametrize("load", [0.1, 0.4, 0.7, 0.9])
@pytest.mark.parametrize("variation", [0.0, 0.1, 0.2])
def test_99_of_100_requests_are_within_the_bound_in_a_simulation(batch: int, load: float, variation: float) -> None:
    service = 5.0
    capacity = batch * 1000 / service
    bound = longest_ms(service, variation) + wait_ms(service, batch, capacity, load * capacity, variation)
    measured = simulated_p99(service, batch, load * capacity, variation)
    # Chance moves the measured one by some percent.
    assert measured <= 1.06 * bound
    # And the bound is no idle one.
    assert bound < 2.2 * measured


@pytest.mark.parametrize("load", [0.3, 0.9])
def test_times_that_scatter_more_are_waited_for_longer(load: float) -> None:
    waits = [wait_ms(5, 8, 1600, load * 1600, variation) for variation in (0.0, 1e-4, 0.1, 0.2, 0.4)]
    assert waits == sorted(waits)
    # Nearly none is as good as none.
    assert waits[1] == pytest.approx(waits[0], rel=1e-3)
    # A bound for no scatter does not hold with much of it.
    none, much = (longest_ms(5, each) + wait_ms(5, 16, 3200, 0.95 * 3200, each) for each in (0.0, 0.4))
    assert none < simulated_p99(5, 16, 0.95 * 3200, 0.4) < much


def test_more_than_is_served_waits_for_ever() -> None:
    assert wait_ms(5, 1, 200, 200) == math.inf
    assert wait_ms(5, 1, 200, 300) == math.inf
    waits = [wait_ms(5, 4, 800, rate) for rate in (1e-171, 1, 100, 400, 700, 799)]
    assert waits == sorted(waits)
