"""Load levels measured with the real perf_analyzer on a real server, and everything that can go wrong there."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from measured import png, repository
from serving import QUICK, processes_naming, up, wait_for

from tritonkit.bench import process
from tritonkit.bench.command import Measurement
from tritonkit.bench.levels import Concurrency, Level, RequestRate
from tritonkit.bench.preparation import Wish, prepare
from tritonkit.bench.sweep import Point, measure
from tritonkit.client import activity
from tritonkit.client.endpoint import Addresses, Endpoint
from tritonkit.client.signature import signature
from tritonkit.client.tensors import collect
from tritonkit.errors import BenchmarkFailed, LaunchFailed, RequestFailed, SpecError
from tritonkit.serve import Deployment
from tritonkit.tools.perf_analyzer import PerfAnalyzer

SHORT = 150


def addresses(deployment: Deployment) -> Addresses:
    return Addresses(deployment.http, deployment.grpc)


def wish(**changes: object) -> Wish:
    # The machine is shared and the windows are short: whether they agree is not what most tests are about.
    loose = Wish({}, {}, interval_ms=SHORT, stability_percentage=1000)
    return replace(loose, **changes)  # type: ignore[arg-type]


def sweep(
    deployment: Deployment, analyzer: PerfAnalyzer, folder: Path, levels: list[Level], asked: Wish
) -> list[Point]:
    server = addresses(deployment)
    return list(measure(levels, prepare(server, levels, asked), server, analyzer, folder))


def regions() -> set[str]:
    """What is left of the shared memory that perf_analyzer makes for these models, by its fixed names."""
    ours = re.compile(r"(X|IMAGE)_0_\d+|Y|SIZE")
    return {path.name for path in process._SHARED_MEMORY.iterdir() if ours.fullmatch(path.name)}


def test_each_way_of_asking_gives_a_row(
    measured_server: Deployment, perf_analyzer: PerfAnalyzer, tmp_path: Path
) -> None:
    levels = [
        Level("add", Concurrency(2)),
        Level("add", Concurrency(1), 8, "grpc", "system"),
        Level("add", RequestRate(100, "poisson"), 1, "grpc"),
        Level("add", RequestRate(100), 1, "http", version="1"),
    ]
    points = sweep(measured_server, perf_analyzer, tmp_path, levels, wish())
    assert [point.level for point in points] == levels
    for point in points:
        assert point.row is not None, point.error
        assert point.row.throughput > 0
        assert 0 < point.row.latency_p50 <= point.row.latency_p90 <= point.row.latency_p95 <= point.row.latency_p99
        assert point.row.latency_avg is not None
        assert point.row.compute is not None
        assert 0 < point.row.compute < point.row.latency_p99
        assert len(point.windows) >= 3
        assert point.stable
        (add,) = point.server
        assert add.failures == 0
        assert point.requests is not None
        assert add.requests >= point.requests
        folder = tmp_path / point.level.label
        assert {file.name for file in folder.iterdir()} == {"report.csv", "perf_analyzer-1.log", "command.txt"}
        assert "perf_analyzer -m add" in (folder / "command.txt").read_text()
    # Two requests in flight: a batch has one of them or both, as the machine lets them come.
    together = points[0].server[0]
    assert 2 in together.batches
    assert set(together.batches) <= {1, 2}
    assert together.average_batch == sum(size * count for size, count in together.batches.items()) / together.executions
    assert set(points[1].server[0].batches) == {8}
    assert points[2].row is not None
    assert points[2].row.throughput == pytest.approx(100, rel=0.5)
    assert regions() == set()


def test_an_ensemble_waits_in_the_queues_of_its_members(
    measured_server: Deployment, perf_analyzer: PerfAnalyzer, tmp_path: Path
) -> None:
    (point,) = sweep(measured_server, perf_analyzer, tmp_path, [Level("twice", Concurrency(1))], wish())
    twice, add = point.server
    assert (twice.model, add.model) == ("twice", "add")
    assert add.requests == 2 * twice.requests
    # Each of its two steps waits 2 ms for a batch that never fills; perf_analyzer itself says none.
    assert point.queue is not None
    assert point.queue >= 3500
    assert point.row is not None
    assert point.row.queue is not None
    assert point.row.queue < 10


def test_an_ensemble_of_an_ensemble_waits_where_that_one_does(
    measured_server: Deployment, perf_analyzer: PerfAnalyzer, tmp_path: Path
) -> None:
    (point,) = sweep(measured_server, perf_analyzer, tmp_path, [Level("nested", Concurrency(1))], wish())
    nested, add = point.server
    assert (nested.model, add.model) == ("nested", "add")
    assert add.requests == 2 * nested.requests
    assert point.queue is not None
    assert point.queue >= 3500


def test_images_as_bytes(measured_server: Deployment, perf_analyzer: PerfAnalyzer, tmp_path: Path) -> None:
    for index in range(3):
        png(tmp_path / f"{index}.png", index + 1, 4)
    levels = [Level("image", Concurrency(1), 2), Level("image", Concurrency(1), 2, "grpc", "system")]
    points = sweep(
        measured_server, perf_analyzer, tmp_path / "out", levels, wish(given={"IMAGE": f"@{tmp_path}/*.png"})
    )
    assert [point.error for point in points] == ["", ""]
    assert all(point.server[0].failures == 0 for point in points)
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
    with pytest.raises(RequestFailed, match="has no model 'no'"):
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
    failed, measured = measure(levels, subjects, server, perf_analyzer, tmp_path)
    assert failed.row is None
    assert not failed.stable
    assert len(failed.argv) == 1
    assert failed.error.startswith("the 50th request is refused\n")
    assert failed.notes == ("failed: the 50th request is refused",)
    assert measured.row is not None
    assert measured.error == ""


def test_a_level_that_never_settles_has_a_row_that_says_so(
    measured_server: Deployment, perf_analyzer: PerfAnalyzer, tmp_path: Path
) -> None:
    # Every request takes longer than the one before it.
    asked = wish(given={"X": "[-2]"}, interval_ms=300, stability_percentage=1, max_trials=3)
    levels = [Level("add", Concurrency(1)), Level("moody", Concurrency(1))]
    server = addresses(measured_server)
    subjects = prepare(server, levels[:1], wish()) | prepare(server, levels[1:], asked)
    before = activity.snapshots(server)
    settled, unsettled = measure(levels, subjects, server, perf_analyzer, tmp_path)
    assert settled.stable
    assert unsettled.row is not None
    assert not unsettled.stable
    assert "unstable" in unsettled.notes
    assert len(unsettled.argv) == 2
    assert len(unsettled.windows) == 3
    # The server's figures leave out the process that gave no row.
    (everything,) = activity.between(before, activity.snapshots(server), ["moody"])
    (moody,) = unsettled.server
    assert unsettled.requests is not None
    assert unsettled.requests <= moody.requests < everything.requests
    assert (tmp_path / "moody-http-b1-c1" / "perf_analyzer-2.log").exists()
    assert len((tmp_path / "moody-http-b1-c1" / "command.txt").read_text().splitlines()) == 2


def test_more_load_than_the_server_takes_is_noted(
    measured_server: Deployment, perf_analyzer: PerfAnalyzer, tmp_path: Path
) -> None:
    asked = wish(given={"X": "[-4]"}, interval_ms=300, stability_percentage=10, max_trials=3)
    (point,) = sweep(measured_server, perf_analyzer, tmp_path, [Level("moody", RequestRate(100))], asked)
    assert not point.stable
    assert point.notes[0] == "unstable"
    assert point.notes[1].startswith("overloaded: served ")
    assert point.notes[1].endswith(" of 100/s")


def test_no_row_is_an_error_with_perf_analyzers_words(
    measured_server: Deployment, perf_analyzer: PerfAnalyzer, tmp_path: Path
) -> None:
    # A window too short for even one answer of 20 ms.
    asked = wish(given={"X": "[-4]"}, interval_ms=1)
    (point,) = sweep(measured_server, perf_analyzer, tmp_path, [Level("moody", Concurrency(1))], asked)
    assert point.row is None
    assert "larger time window" in point.error


def test_a_server_that_dies_in_a_level_ends_the_sweep(perf_analyzer: PerfAnalyzer, tmp_path: Path) -> None:
    levels = [Level("add", Concurrency(1)), Level("add", Concurrency(2)), Level("add", Concurrency(3))]
    points: list[Point] = []

    def kill_under_load(deployment: Deployment) -> None:
        endpoint = Endpoint(deployment.http)
        begun = endpoint.statistics("add")["model_stats"][0]["inference_count"]
        wait_for(lambda: endpoint.statistics("add")["model_stats"][0]["inference_count"] > begun + 50)
        pid = deployment.servers[0].pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)

    def sweep_and_kill() -> None:
        with up(tmp_path, repository(tmp_path / "models"), policy=replace(QUICK, max_restarts=0)) as deployment:
            server = addresses(deployment)
            subjects = prepare(server, levels, wish(interval_ms=400))
            measuring = measure(levels, subjects, server, perf_analyzer, tmp_path / "out")
            points.append(next(measuring))
            killer = threading.Thread(target=kill_under_load, args=(deployment,))
            killer.start()
            points.extend(measuring)
            killer.join()

    with pytest.raises(LaunchFailed):
        sweep_and_kill()
    assert [point.level for point in points] == levels[:2]
    assert points[0].row is not None
    assert points[1].row is None
    assert points[1].error
    assert points[1].server == ()
    assert not processes_naming(tmp_path / "out")


def test_answers_that_never_come_are_an_error(
    perf_analyzer: PerfAnalyzer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Measurement, "deadline", 1.5)
    monkeypatch.setattr(process, "_GRACE", 0.2)
    with up(tmp_path, repository(tmp_path / "models")) as deployment:
        levels = [Level("moody", Concurrency(1))]
        (point,) = sweep(deployment, perf_analyzer, tmp_path / "out", levels, wish(given={"X": "[-3]"}))
    assert point.row is None
    assert "No valid requests recorded" in point.error
    assert point.error.startswith("perf_analyzer was stopped after 1.5 s: answers do not come")
    assert not processes_naming(tmp_path / "out")


def test_a_perf_analyzer_that_does_not_end_is_stopped(
    measured_server: Deployment, perf_analyzer: PerfAnalyzer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Measurement, "deadline", 0.4)
    monkeypatch.setattr(process, "_GRACE", 0.1)
    levels = [Level("add", Concurrency(1), shared_memory="system")]
    (point,) = sweep(measured_server, perf_analyzer, tmp_path, levels, wish(interval_ms=5000))
    assert point.row is None
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
    (add,) = activity.between(before, activity.snapshots(server), ["add"])
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
    assert process.run(["/bin/sh", "-c", left], {}, tmp_path / "log", deadline=10, regions=names)
    assert outside.exists()
    assert [file.name for file in memory.iterdir()] == ["other"]


def test_an_interrupt_at_the_start_of_a_process_leaves_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Struck(subprocess.Popen[bytes]):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(subprocess, "Popen", Struck)
    line = ["/bin/sh", "-c", "sleep 60; exit", str(tmp_path)]
    with pytest.raises(KeyboardInterrupt):
        process.run(line, {}, tmp_path / "log", deadline=10, regions=())
    assert not processes_naming(tmp_path)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_shared_memory_that_was_there_before_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "_SHARED_MEMORY", tmp_path)
    (tmp_path / "Y").touch()
    assert process.run(["/bin/true"], {}, tmp_path / "log", deadline=10, regions=["/Y"])
    assert (tmp_path / "Y").exists()


def test_files_of_different_lengths_are_told_before_any_load(measured_server: Deployment, tmp_path: Path) -> None:
    for size in (1, 2):
        (tmp_path / f"{size}.json").write_text(str([0] * size))
    levels = [Level("open", Concurrency(1)), Level("open", Concurrency(1), 2)]
    with pytest.raises(SpecError, match=r"input X: its items have different shapes \(\[1\] and \[2\]\)"):
        prepare(addresses(measured_server), levels, wish(given={"X": f"@{tmp_path}/*.json"}))
