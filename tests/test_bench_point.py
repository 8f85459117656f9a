"""Load levels measured with the real perf_analyzer on a real server, and everything that can go wrong there."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from measured import png, repository
from serving import processes_naming, up, wait_for

from tritonkit.bench import point as measuring
from tritonkit.bench import process
from tritonkit.bench.command import Measurement
from tritonkit.bench.data import document
from tritonkit.bench.levels import Concurrency, Level, RequestRate, recorded
from tritonkit.bench.preparation import Subject, Wish, prepare
from tritonkit.bench.process import Job
from tritonkit.bench.records import Record, Repeat
from tritonkit.bench.soundness import judged
from tritonkit.client import activity
from tritonkit.client.endpoint import Addresses
from tritonkit.client.signature import signature
from tritonkit.client.tensors import collect
from tritonkit.errors import BenchmarkFailed, RequestFailed, SpecError, UsageError
from tritonkit.serve import Deployment
from tritonkit.tools.perf_analyzer import PerfAnalyzer

SHORT = 300


def addresses(deployment: Deployment) -> Addresses:
    return Addresses(deployment.http, deployment.grpc)


def wish(**changes: object) -> Wish:
    # The machine is shared and the windows are short: whether they agree is not what most tests are about.
    loose = Wish({}, {}, interval_ms=SHORT, stability_percentage=1000)
    return replace(loose, **changes)  # type: ignore[arg-type]


def bench(server: Addresses, subjects: Mapping[str, Subject], analyzer: PerfAnalyzer, folder: Path) -> measuring.Bench:
    folder.mkdir(parents=True, exist_ok=True)
    data = {model: folder / f"{model}.json" for model in subjects}
    for model, one in subjects.items():
        data[model].write_text(document(one.data, one.signature))
    return measuring.Bench(server, analyzer, subjects, data)


def measure(level: Level, folder: Path, ready: measuring.Bench) -> measuring.Result:
    (folder / level.label).mkdir()
    (result,) = measuring.measure([level], [folder / level.label], 1, ready)
    return result


def sweep(
    deployment: Deployment, analyzer: PerfAnalyzer, folder: Path, levels: list[Level], asked: Wish
) -> list[measuring.Result]:
    server = addresses(deployment)
    ready = bench(server, prepare(server, levels, asked), analyzer, folder)
    return [measure(level, folder, ready) for level in levels]


def repeat_of(result: measuring.Result) -> Repeat:
    assert result.repeat is not None, result.error
    return result.repeat


def record_of(result: measuring.Result) -> Record:
    level = result.level
    plain = Record("", level.label, level.model, recorded(level.load), "ok", batch_size=level.batch_size)
    return judged(replace(plain, repeats=(repeat_of(result),)), cores=1000)


def regions() -> set[str]:
    """What is left of the shared memory that perf_analyzer makes for these models, by its fixed names."""
    ours = re.compile(r"(X|IMAGE)_0_\d+|Y|SIZE")
    return {path.name for path in process._SHARED_MEMORY.iterdir() if ours.fullmatch(path.name)}


@pytest.mark.usefixtures("regions_alone")
def test_each_way_of_asking_gives_a_row(
    measured_server: Deployment, perf_analyzer: PerfAnalyzer, tmp_path: Path
) -> None:
    levels = [
        Level("add", Concurrency(2)),
        Level("add", Concurrency(1), 8, "grpc", "system"),
        Level("add", RequestRate(100, "poisson"), 1, "grpc"),
        Level("add", RequestRate(100), 1, "http", version="1"),
    ]
    results = [
        *sweep(measured_server, perf_analyzer, tmp_path, levels[:2], wish()),
        # Rates are held to: what stalls for a moment must not be a large part of the windows.
        *sweep(measured_server, perf_analyzer, tmp_path, levels[2:], wish(interval_ms=600)),
    ]
    for result in results:
        one = repeat_of(result)
        assert one.throughput > 0
        assert 0 < one.latency_p50 <= one.latency_p90 <= one.latency_p95 <= one.latency_p99
        assert one.latency_avg is not None
        assert one.compute is not None
        # Of the whole run this one, and of the windows that one: what is compared is the unit.
        assert 0 < one.compute < 10 * one.latency_p99
        assert one.stable
        assert one.failures == 0
        assert one.requests is not None
        assert one.requests > 0
        assert one.busiest == "add"
        assert one.busy is not None
        assert 0 < one.busy <= 3
        folder = tmp_path / result.level.label
        files = {file.name for file in folder.iterdir()}
        assert {"report-1.csv", "perf_analyzer-1.log", "command.txt", *one.raw} <= files
        assert {Path(name).suffix for name in one.raw} == {".csv", ".log"}
        # At a rate it may not send all that it is to, and is run anew.
        assert len(files) == 3 or isinstance(result.level.load, RequestRate)
        assert "perf_analyzer -m add" in (folder / "command.txt").read_text()
    # Two requests in flight: a batch has one of them or both, as the machine lets them come.
    together = repeat_of(results[0])
    assert 2 in together.batches
    assert set(together.batches) <= {1, 2}
    assert together.average_batch is not None
    assert 1 < together.average_batch <= 2
    assert set(repeat_of(results[1]).batches) == {8}
    assert repeat_of(results[2]).throughput == pytest.approx(100, rel=0.5)
    assert repeat_of(results[3]).throughput == pytest.approx(100, rel=0.5)
    assert regions() == set()


@pytest.mark.parametrize(("model", "steps"), [("twice", 2), ("nested", 2)])
def test_an_ensemble_waits_in_the_queues_of_its_members(
    measured_server: Deployment, perf_analyzer: PerfAnalyzer, tmp_path: Path, model: str, steps: int
) -> None:
    asked = wish(interval_ms=400)
    (result,) = sweep(measured_server, perf_analyzer, tmp_path, [Level(model, Concurrency(1))], asked)
    one = repeat_of(result)
    # Each of its two steps waits 2 ms for a batch that never fills; perf_analyzer itself says none, and counts the
    # time as spent between client and server.
    assert one.parts["queue"] >= 1750 * steps
    assert one.latency_avg is not None
    # The queue is that of the whole run, the latency that of the windows.
    assert sum(one.parts.values()) < 3 * one.latency_avg
    assert (one.batches, one.average_batch, one.members) == ({}, None, {"add": 1.0})
    assert one.busiest == "add"


def test_the_queue_of_an_ensemble_is_not_that_of_others_who_ask_its_members(
    measured_server: Deployment, perf_analyzer: PerfAnalyzer, tmp_path: Path
) -> None:
    levels = [Level("twice", Concurrency(1)), Level("add", Concurrency(6))]
    server = addresses(measured_server)
    ready = bench(server, prepare(server, levels, wish()), perf_analyzer, tmp_path)
    folders = [tmp_path / level.label for level in levels]
    for folder in folders:
        folder.mkdir()
    ensemble, direct = (repeat_of(result) for result in measuring.measure(levels, folders, 1, ready))
    assert direct.throughput > 3 * ensemble.throughput, "most of what its member does is for others"
    # What its two steps wait, and not what all of the others' requests do together: that is many times as much.
    assert 1000 < ensemble.parts["queue"] < 2 * (ensemble.latency_avg or 0.0)


@pytest.mark.usefixtures("regions_alone")
def test_images_as_bytes(measured_server: Deployment, perf_analyzer: PerfAnalyzer, tmp_path: Path) -> None:
    for index in range(3):
        png(tmp_path / f"{index}.png", index + 1, 4)
    levels = [Level("image", Concurrency(1), 2), Level("image", Concurrency(1), 2, "grpc", "system")]
    points = sweep(
        measured_server, perf_analyzer, tmp_path / "out", levels, wish(given={"IMAGE": f"@{tmp_path}/*.png"})
    )
    assert [repeat_of(point).failures for point in points] == [0, 0]
    assert regions() == set()


def test_a_made_up_text_that_a_model_refuses_ends_it_before_any_load(measured_server: Deployment) -> None:
    with pytest.raises(BenchmarkFailed, match="not an image\nA made-up text was sent for IMAGE") as caught:
        prepare(addresses(measured_server), [Level("image", Concurrency(1))], wish())
    assert caught.value.hint is not None
    assert "--input IMAGE=@file" in caught.value.hint
    with pytest.raises(RequestFailed, match="not an image"):
        prepare(addresses(measured_server), [Level("image", Concurrency(1))], wish(given={"IMAGE": "given"}))
    assert prepare(addresses(measured_server), [Level("image", Concurrency(1))], wish(given={"IMAGE": "png:8x8"}))


def test_wrong_inputs_are_told_before_any_load(measured_server: Deployment) -> None:
    levels = [Level("add", Concurrency(1)), Level("moody", Concurrency(1))]
    with pytest.raises(SpecError, match=r"input XX: no model that is measured has such an input; did you mean 'X'"):
        prepare(addresses(measured_server), levels, wish(given={"XX": "[1]"}))
    with pytest.raises(SpecError, match=r"input X: got FP32\[3\], and the model takes FP32\[4\]"):
        prepare(addresses(measured_server), levels, wish(given={"X": "[1, 2, 3]"}))
    with pytest.raises(SpecError, match="it takes at most 8"):
        prepare(addresses(measured_server), [Level("add", Concurrency(1), 9)], wish())
    with pytest.raises(UsageError, match="has no model 'no'"):
        prepare(addresses(measured_server), [Level("no", Concurrency(1))], wish())


def test_windows_fit_a_slow_model(measured_server: Deployment) -> None:
    asked = wish(given={"X": "[-5]"}, interval_ms=None)
    began = time.monotonic()
    subject = prepare(addresses(measured_server), [Level("moody", Concurrency(1))], asked)["moody"]
    took = time.monotonic() - began
    # A request takes 50 ms at least, and one is sent before the one that counts; 50 requests make a window.
    assert 2500 <= subject.measurement.interval_ms <= (took - 0.05) * 1000 * 50 + 1


def test_a_failed_request_fails_its_level_and_the_next_one_is_measured(
    measured_server: Deployment, perf_analyzer: PerfAnalyzer, tmp_path: Path
) -> None:
    levels = [Level("moody", Concurrency(1)), Level("add", Concurrency(1))]
    server = addresses(measured_server)
    subjects = prepare(server, [levels[0]], wish(given={"X": "[-1]"})) | prepare(server, [levels[1]], wish())
    failed, measured = (measure(level, tmp_path, bench(server, subjects, perf_analyzer, tmp_path)) for level in levels)
    assert failed.repeat is None
    assert failed.error.startswith("the 10th request is refused\n")
    assert len((tmp_path / "moody-http-b1-c1" / "command.txt").read_text().splitlines()) == 1
    assert repeat_of(measured).throughput > 0


def test_a_level_that_never_settles_has_a_row_that_says_so(
    measured_server: Deployment, perf_analyzer: PerfAnalyzer, tmp_path: Path
) -> None:
    # Every request takes longer than the one before it.
    asked = wish(given={"X": "[-2]"}, interval_ms=300, stability_percentage=1, max_trials=3)
    levels = [Level("add", Concurrency(1)), Level("moody", Concurrency(1))]
    server = addresses(measured_server)
    subjects = prepare(server, levels[:1], wish()) | prepare(server, levels[1:], asked)
    before = activity.snapshots(server)
    ready = bench(server, subjects, perf_analyzer, tmp_path)
    settled, unsettled = (measure(level, tmp_path, ready) for level in levels)
    (everything,) = activity.between(before, activity.snapshots(server), ["moody"])
    assert record_of(settled).status == "ok"
    assert not repeat_of(unsettled).stable
    assert record_of(unsettled).status == "unstable"
    assert len(repeat_of(unsettled).argv) == 2
    # The server's figures leave out the process that gave no row.
    counted = sum(size * count for size, count in repeat_of(unsettled).batches.items())
    assert 0 < (repeat_of(unsettled).requests or 0) <= counted < everything.inferences
    folder = tmp_path / "moody-http-b1-c1"
    assert (folder / "perf_analyzer-1-again.log").exists()
    assert len((folder / "command.txt").read_text().splitlines()) == 2


@pytest.mark.alone
def test_more_load_than_the_server_takes_is_overloaded(
    measured_server: Deployment, perf_analyzer: PerfAnalyzer, tmp_path: Path
) -> None:
    asked = wish(given={"X": "[-4]"}, interval_ms=1000, stability_percentage=10, max_trials=3)
    (result,) = sweep(measured_server, perf_analyzer, tmp_path, [Level("moody", RequestRate(100))], asked)
    record = record_of(result)
    assert record.status == "overloaded"
    assert any(note.startswith("overloaded: served ") and note.endswith(" of 100/s") for note in record.notes)
    assert (record.limit, record.evidence.startswith("the instances of moody computed ")) == ("instances", True)


def test_no_row_is_an_error_with_perf_analyzers_words(
    measured_server: Deployment, perf_analyzer: PerfAnalyzer, tmp_path: Path
) -> None:
    # A window too short for even one answer of 20 ms.
    asked = wish(given={"X": "[-4]"}, interval_ms=1)
    (point,) = sweep(measured_server, perf_analyzer, tmp_path, [Level("moody", Concurrency(1))], asked)
    assert point.repeat is None
    assert "larger time window" in point.error


def test_answers_that_never_come_are_an_error(
    perf_analyzer: PerfAnalyzer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Measurement, "deadline", 6.0)
    monkeypatch.setattr(process, "_GRACE", 0.2)
    with up(tmp_path, repository(tmp_path / "models")) as deployment:
        levels = [Level("moody", Concurrency(1))]
        (point,) = sweep(deployment, perf_analyzer, tmp_path / "out", levels, wish(given={"X": "[-3]"}))
    assert point.repeat is None
    assert "No valid requests recorded" in point.error
    assert point.error.startswith("perf_analyzer was stopped after 6 s: answers do not come")
    assert not processes_naming(tmp_path / "out")


@pytest.mark.usefixtures("regions_alone")
def test_a_perf_analyzer_that_does_not_end_is_stopped(
    measured_server: Deployment, perf_analyzer: PerfAnalyzer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Measurement, "deadline", 0.4)
    monkeypatch.setattr(process, "_GRACE", 0.1)
    levels = [Level("add", Concurrency(1), shared_memory="system")]
    (point,) = sweep(measured_server, perf_analyzer, tmp_path, levels, wish(interval_ms=5000))
    assert point.repeat is None
    assert "stopped after 0.4 s" in point.error
    assert not processes_naming(tmp_path)
    assert regions() == set()


def test_no_server(measured_server: Deployment) -> None:
    gone = Addresses("127.0.0.1:1", "127.0.0.1:1")
    with pytest.raises(RequestFailed, match=r"no server can be reached at 127\.0\.0\.1:1"):
        prepare(gone, [Level("add", Concurrency(1))], wish())


def test_statistics_are_differences(measured_server: Deployment) -> None:
    server = addresses(measured_server)
    known = signature(server.endpoint(), "add")
    before = activity.snapshots(server)
    from tritonkit.client.inference import infer

    for size in (1, 3, 3):
        infer(server, known, collect(known, {"X": f"{[[0, 0, 0, 0]] * size}"}))

    def did() -> activity.Activity | None:
        (add,) = activity.between(before, activity.snapshots(server), ["add"])
        return add if min(add.requests, add.executions) >= 3 else None

    # Triton counts a request after it has answered.
    add = wait_for(did)
    assert (add.requests, add.failures, add.inferences, add.executions) == (3, 0, 7, 3)
    assert add.batches == {1: 1, 3: 2}
    assert add.average_batch == pytest.approx(7 / 3)
    assert add.queue > 0
    # Loaded again in between: the later figures are all there is.
    (again,) = activity.between(activity.snapshots(server), before, ["add"])
    totals = before[server.http]["add"]["model_stats"][0]
    assert again.inferences == totals["inference_count"]
    (idle,) = activity.between(before, before, ["add", "nobody"])
    assert (idle.requests, idle.average_batch, idle.queue) == (0, None, 0)


def test_shared_memory_that_is_left_is_removed_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = tmp_path / "shm"
    memory.mkdir()
    monkeypatch.setattr(process, "_SHARED_MEMORY", memory)
    outside = tmp_path / "outside"
    left = f"touch {memory}/Y {memory}/other {outside}"
    names = ["/Y", str(outside), "../outside", "//never/made"]
    (ended,) = process.run([Job(["/bin/sh", "-c", left], {}, tmp_path / "log", 10, tuple(names))])
    assert ended.itself
    assert outside.exists()
    assert [file.name for file in memory.iterdir()] == ["other"]


def test_several_run_at_the_same_time_and_one_that_hangs_is_stopped(tmp_path: Path) -> None:
    started, over = tmp_path / "started", tmp_path / "over"
    until = "while [ ! -e {} ]; do sleep 0.01; done;"
    lines = (
        (f"{until.format(started)} sleep 0.2; touch {over}", 30),
        (f"{until.format(over)} sleep 0.5", 30),
        ("sleep 60; exit", 1.0),
    )
    jobs = [
        Job(["/bin/sh", "-c", line], {}, tmp_path / f"{index}.log", deadline)
        for index, (line, deadline) in enumerate(lines)
    ]
    seen: list[int] = []

    def watch(pids: Sequence[int]) -> None:
        seen.extend(pids)
        started.touch()

    first, second, hung = process.run(jobs, watch)
    assert len(set(seen)) == 3
    assert (first.itself, second.itself, hung.itself) == (True, True, False)
    assert 0.2 <= first.seconds < second.seconds
    assert not any(Path(f"/proc/{pid}").exists() for pid in seen)


def test_an_interrupt_at_the_start_of_a_process_leaves_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Struck(subprocess.Popen[bytes]):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(subprocess, "Popen", Struck)
    line = ["/bin/sh", "-c", "sleep 60; exit", str(tmp_path)]
    with pytest.raises(KeyboardInterrupt):
        process.run([Job(line, {}, tmp_path / "log", 10)])
    assert not processes_naming(tmp_path)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_shared_memory_that_was_there_before_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "_SHARED_MEMORY", tmp_path)
    (tmp_path / "Y").touch()
    (ended,) = process.run([Job(["/bin/true"], {}, tmp_path / "log", 10, ("/Y",))])
    assert ended.itself
    assert (tmp_path / "Y").exists()


def test_files_of_different_lengths_are_told_before_any_load(measured_server: Deployment, tmp_path: Path) -> None:
    for size in (1, 2):
        (tmp_path / f"{size}.json").write_text(str([0] * size))
    levels = [Level("open", Concurrency(1)), Level("open", Concurrency(1), 2)]
    with pytest.raises(SpecError, match=r"input X: its items have different shapes \(\[1\] and \[2\]\)"):
        prepare(addresses(measured_server), levels, wish(given={"X": f"@{tmp_path}/*.json"}))
