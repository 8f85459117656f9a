"""perf_analyzer that does not send all it is to: found out, measured anew, and told where that does not help."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest
from test_bench_point import addresses, bench, record_of, repeat_of, wish

from tritonkit.bench.levels import Concurrency, Intervals, Level, Load, RequestRate
from tritonkit.bench.point import Result, measure
from tritonkit.bench.preparation import prepare
from tritonkit.bench.row import Row
from tritonkit.bench.sending import held_back
from tritonkit.serve import Deployment
from tritonkit.tools.perf_analyzer import PerfAnalyzer

# The real perf_analyzer, which sends three quarters of the rate: what one of its four threads keeps to itself.
LOSING = """#!{python}
import os, sys
from pathlib import Path
begun = Path({begun!r})
line = sys.argv[1:]
assert line[line.index("--max-threads") + 1] == "4"
if begun.stat().st_size < {times}:
    begun.write_text(begun.read_text() + "x")
    rate = line.index("--request-rate-range") + 1
    line[rate] = str(float(line[rate]) * 3 / 4)
os.execv({binary!r}, ["perf_analyzer", *line])
"""
RATE = 40.0


def losing(perf_analyzer: PerfAnalyzer, folder: Path, times: int) -> PerfAnalyzer:
    """perf_analyzer that keeps a quarter of the requests to itself, so many times."""
    begun, binary = folder / "begun", folder / "perf_analyzer"
    begun.touch()
    real = str(perf_analyzer.binary)
    binary.write_text(LOSING.format(python=sys.executable, begun=str(begun), times=times, binary=real))
    binary.chmod(0o755)
    return replace(perf_analyzer, binary=binary)


def measured(
    deployment: Deployment, analyzer: PerfAnalyzer, folder: Path, *levels: Level
) -> list[tuple[Result, list[str]]]:
    """Levels at the same time; beside each the names of its attempts."""
    server = addresses(deployment)
    ready = bench(server, prepare(server, levels, wish(interval_ms=1200)), analyzer, folder)
    folders = [folder / level.label for level in levels]
    for each in folders:
        each.mkdir()
    results = measure(levels, folders, 1, ready)
    # Every attempt is kept, and the figures are those of the last one.
    names = [sorted(log.stem.removeprefix("perf_analyzer-") for log in each.glob("*.log")) for each in folders]
    for result, attempts, place in zip(results, names, folders, strict=True):
        assert len((place / "command.txt").read_text().splitlines()) == len(attempts)
        assert set(repeat_of(result).raw) == {f"perf_analyzer-{attempts[-1]}.log", f"report-{attempts[-1]}.csv"}
    return list(zip(results, names, strict=True))


@pytest.mark.alone
def test_a_thread_that_keeps_its_requests_to_itself(
    measured_server: Deployment, perf_analyzer: PerfAnalyzer, tmp_path: Path
) -> None:
    lost = losing(perf_analyzer, tmp_path, 1)
    ((result, names),) = measured(measured_server, lost, tmp_path / "out", Level("add", RequestRate(RATE)))
    # It may do so by itself, too.
    assert names in (["1", "1-anew-1"], ["1", "1-anew-1", "1-anew-2"])
    assert repeat_of(result).throughput == pytest.approx(RATE, rel=0.15)


@pytest.mark.alone
def test_those_under_load_together_are_measured_anew_together(
    measured_server: Deployment, perf_analyzer: PerfAnalyzer, tmp_path: Path
) -> None:
    lost = losing(perf_analyzer, tmp_path, 1)
    levels = (Level("moody", RequestRate(RATE / 2)), Level("add", RequestRate(RATE)))
    found = measured(measured_server, lost, tmp_path / "out", *levels)
    assert {tuple(names) for _, names in found} <= {("1", "1-anew-1"), ("1", "1-anew-1", "1-anew-2")}
    assert len({tuple(names) for _, names in found}) == 1


def test_what_failed_is_not_measured_anew(
    measured_server: Deployment, perf_analyzer: PerfAnalyzer, tmp_path: Path
) -> None:
    lost = losing(perf_analyzer, tmp_path, 2)
    # Of the first every tenth request is refused.
    levels = [Level("moody", RequestRate(RATE)), Level("add", RequestRate(RATE))]
    server = addresses(measured_server)
    subjects = prepare(server, levels[:1], wish(given={"X": "[-1]"})) | prepare(server, levels[1:], wish())
    folders = [tmp_path / level.label for level in levels]
    for each in folders:
        each.mkdir()
    failed, other = measure(levels, folders, 1, bench(server, subjects, lost, tmp_path))
    assert failed.error.startswith("the 10th request is refused\n")
    assert repeat_of(other).raw == ("report-1.csv", "perf_analyzer-1.log")


@pytest.mark.alone
def test_where_that_does_not_help_it_is_told(
    measured_server: Deployment, perf_analyzer: PerfAnalyzer, tmp_path: Path
) -> None:
    lost = losing(perf_analyzer, tmp_path, 3)
    ((result, names),) = measured(measured_server, lost, tmp_path / "out", Level("add", RequestRate(RATE)))
    assert names == ["1", "1-anew-1", "1-anew-2"]
    record = record_of(result)
    assert record.status == "client-limited"
    assert repeat_of(result).sent == pytest.approx(RATE * 3 / 4, rel=0.1)
    assert any(note.endswith(f" of {RATE:g} requests/s") for note in record.notes), record.notes


# As perf_analyzer 2.51.0 wrote it: one of its threads waited in vain, on a machine that had much to do.
LOST = """\
Request Rate: 150 inference requests per seconds
  Pass [1] throughput: 110.329 infer/sec. Avg latency: 447 usec (std 249 usec).
  Pass [2] throughput: 114.438 infer/sec. Avg latency: 347 usec (std 71 usec).
  Pass [3] throughput: 112.355 infer/sec. Avg latency: 388 usec (std 109 usec).
  Client:
    Request count: 162
    Throughput: 112.374 infer/sec
"""
PER_SECOND = 112.374
# 1.44 s, in which 216 were due.
SECONDS = 162 / PER_SECOND


def seen(load: Load, served: int = 162, *, log: str = LOST, batch: int = 1) -> float | None:
    return held_back(Level("m", load, batch), Row(PER_SECOND * batch, 1, 1, 1, 1), log, served)


def test_requests_that_the_server_never_saw_were_not_sent() -> None:
    assert seen(RequestRate(150)) == pytest.approx(PER_SECOND)
    assert seen(RequestRate(150), batch=8) == pytest.approx(PER_SECOND)
    assert seen(RequestRate(150), 189) == pytest.approx(189 / SECONDS)
    # Less than half of a thread's share is missing; nothing is, though most were answered later.
    assert seen(RequestRate(150), 190) is None
    assert seen(RequestRate(150), 216) is None
    # A closed loop sends as many as are answered.
    assert seen(Concurrency(4)) is None
    # Who counts nothing, or less than was answered, cannot tell: one server of several behind a balancer.
    assert seen(RequestRate(150), 0) is None
    assert seen(RequestRate(150), 161) is None
    assert seen(RequestRate(150), log="it said nothing") is None
    # Too late by its own account.
    late = "[WARNING] {}% of the requests were delayed.\n  Avg send request rate: 112.374 infer/sec"
    assert seen(RequestRate(150), log=LOST + late.format(5)) is None
    assert seen(RequestRate(150), log=LOST + late.format(4)) is not None


def test_all_windows_count_and_not_the_last_ones_alone() -> None:
    twice = LOST.replace(
        "  Client:",
        "".join(f"  Pass [{each}] throughput: 112.3 infer/sec. Avg latency: 388 usec\n" for each in (4, 5, 6))
        + "  Client:",
    )
    assert seen(RequestRate(150), 2 * 162, log=twice) == pytest.approx(PER_SECOND)
    assert seen(RequestRate(150), 2 * 190, log=twice) is None


def test_few_requests_tell_nothing() -> None:
    # 1.44 due at 1/s, 4.3 at 3/s: the ends of the windows make a difference of one.
    assert seen(RequestRate(1), 1) is None
    assert seen(RequestRate(3), 3) is None
    # Of random arrivals 44 may be missing of 216 by chance.
    assert seen(RequestRate(150, "poisson"), 173) is None
    assert seen(RequestRate(150, "poisson"), 171) is not None


def test_a_trace_is_held_to_its_own_times(tmp_path: Path) -> None:
    file = tmp_path / "intervals.txt"

    def trace(*waits: int) -> Intervals:
        file.write_text("".join(f"{wait}\n" for wait in waits))
        return Intervals("trace", len(waits) / sum(waits) * 1e6, sum(waits) / 1e6, "0" * 64, file)

    # 1.44 s of it: 162 requests at once after a second, and then none for another.
    assert seen(trace(1_000_000, *[1] * 161, 1_000_000)) is None
    # 216 within that time, whatever comes later; and the same in rounds of 0.36 s.
    assert seen(trace(*[6_666] * 216, 3_000_000)) == pytest.approx(PER_SECOND)
    assert seen(trace(*[6_666] * 54)) == pytest.approx(PER_SECOND)
    assert seen(trace(*[8_888] * 41)) is None
