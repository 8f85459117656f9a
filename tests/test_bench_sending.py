"""perf_analyzer that does not send all it is to: found out, measured anew, and told where that does not help."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest
from test_bench_point import addresses, bench, measure, record_of, repeat_of, wish

from tritonkit.bench.levels import Concurrency, Intervals, Level, RequestRate
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
RATE = 100.0


@pytest.mark.parametrize("times", [1, 3])
def test_a_thread_that_keeps_its_requests_to_itself(
    measured_server: Deployment, perf_analyzer: PerfAnalyzer, tmp_path: Path, times: int
) -> None:
    begun, binary = tmp_path / "begun", tmp_path / "perf_analyzer"
    begun.touch()
    real = str(perf_analyzer.binary)
    binary.write_text(LOSING.format(python=sys.executable, begun=str(begun), times=times, binary=real))
    binary.chmod(0o755)
    level = Level("add", RequestRate(RATE))
    server = addresses(measured_server)
    ready = bench(server, prepare(server, [level], wish(interval_ms=600)), perf_analyzer, tmp_path / "out")
    result = measure(level, tmp_path / "out", replace(ready, analyzer=replace(perf_analyzer, binary=binary)))
    folder = tmp_path / "out" / level.label
    # Every attempt is kept, and the figures are those of the last one.
    lines = len((folder / "command.txt").read_text().splitlines())
    # It may do so by itself, too.
    assert lines == 3 or (lines, times) == (2, 1)
    names = ["1", "1-anew-1", "1-anew-2"][:lines]
    assert {file.name for file in folder.glob("*.log")} == {f"perf_analyzer-{name}.log" for name in names}
    assert set(repeat_of(result).raw) == {f"perf_analyzer-{names[-1]}.log", f"report-{names[-1]}.csv"}
    if times == 1:
        assert repeat_of(result).throughput == pytest.approx(RATE, rel=0.2)
        assert record_of(result).status == "ok"
    else:
        record = record_of(result)
        assert record.status == "client-limited"
        assert repeat_of(result).sent == pytest.approx(RATE * 3 / 4, rel=0.1)
        assert any(note.endswith(" of 100 requests/s") for note in record.notes), record.notes


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
LAST = "Avg latency: 388 usec"


def seen(log: str, load: RequestRate | Concurrency | Intervals, throughput: float, batch: int = 1) -> float | None:
    return held_back(Level("m", load, batch), Row(throughput, 1, 1, 1, 1), log)


def test_requests_that_nobody_waited_for_were_not_sent() -> None:
    assert seen(LOST, RequestRate(150), 112.374) == pytest.approx(112.374)
    assert seen(LOST, RequestRate(150), 112.374 * 8, 8) == pytest.approx(112.374)
    # All of them, or nearly.
    assert seen(LOST, RequestRate(112), 112.374) is None
    assert seen(LOST, RequestRate(125), 112.374) is None
    # Of random arrivals 27 may be missing of 107, but not 47 of 187.
    assert seen(LOST.replace(": 162", ": 140"), RequestRate(150, "poisson"), 112.374) is not None
    assert seen(LOST.replace(": 162", ": 80"), RequestRate(150, "poisson"), 112.374) is None
    # A closed loop sends as many as are answered.
    assert seen(LOST, Concurrency(4), 112.374) is None
    # Too late by its own account.
    assert seen(LOST + "[WARNING] 5% of the requests were delayed.", RequestRate(150), 112.374) is None
    assert seen(LOST + "[WARNING] 4% of the requests were delayed.", RequestRate(150), 112.374) is not None
    assert seen("it said nothing", RequestRate(150), 112.374) is None


def test_requests_that_wait_were_sent() -> None:
    # 54 are missing after 1.44 s: as a queue, the last of which were answered 0.3 s late.
    assert seen(LOST.replace(LAST, "Avg latency: 300000 usec"), RequestRate(150), 112.374) is None
    assert seen(LOST.replace(LAST, "Avg latency: 100000 usec"), RequestRate(150), 112.374) is not None


def test_a_trace_is_held_to_its_own_times(tmp_path: Path) -> None:
    file = tmp_path / "intervals.txt"

    def trace(*waits: int) -> Intervals:
        file.write_text("".join(f"{wait}\n" for wait in waits))
        return Intervals("trace", len(waits) / sum(waits) * 1e6, sum(waits) / 1e6, "0" * 64, file)

    # 1.44 s of it: 162 requests at once after a second, and then none for another.
    assert seen(LOST, trace(1_000_000, *[1] * 161, 1_000_000), 112.374) is None
    # 216 within that time, whatever comes later; and the same in rounds of 0.36 s.
    assert seen(LOST, trace(*[6_666] * 216, 3_000_000), 112.374) == pytest.approx(112.374)
    assert seen(LOST, trace(*[6_666] * 54), 112.374) == pytest.approx(112.374)
    assert seen(LOST, trace(*[8_888] * 41), 112.374) is None
