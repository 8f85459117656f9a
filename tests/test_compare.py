"""What `compare` calls a change, and what it does not: on figures whose noise is known, and on real ones."""

from __future__ import annotations

import json
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from noise import Noise, measured
from report_studies import NASTY, record, study, write
from scipy import stats
from typer.testing import CliRunner, Result

from tritonkit.bench.compare import SMALLEST, broken, compare, condition
from tritonkit.bench.records import Study
from tritonkit.bench.significance import difference, holm, quantile, survival
from tritonkit.cli.app import app
from tritonkit.errors import BenchmarkFailed, SpecError
from tritonkit.serve import Deployment
from tritonkit.tools.perf_analyzer import PerfAnalyzer

RUNS = 60


def compared(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["compare", *arguments])


def pair(tmp_path: Path, before: Study, after: Study) -> tuple[str, str]:
    return str(write(tmp_path / "before", before)), str(write(tmp_path / "after", after))


@pytest.mark.parametrize("degrees", [1, 2, 3, 4, 7, 12, 40])
def test_students_distribution(degrees: int) -> None:
    for t in (-4.0, -0.3, 0.0, 0.7, 2.5, 12.0):
        assert survival(t, degrees) == pytest.approx(float(stats.t.sf(t, degrees)), abs=1e-12)
    assert quantile(0.975, degrees) == pytest.approx(float(stats.t.ppf(0.975, degrees)), rel=1e-9)


def test_without_a_smallest_change_it_is_welchs_test() -> None:
    random = np.random.default_rng(0)
    for _ in range(20):
        before, after = random.lognormal(0, 0.3, 4), random.lognormal(0.2, 0.3, 6)
        found = difference(before.tolist(), after.tolist(), 0.0)
        welch = stats.ttest_ind(np.log(after), np.log(before), equal_var=False)
        assert found is not None
        assert found.p is not None
        # Degrees of freedom are rounded down, which is never in favour of a call.
        assert 2 * found.p == pytest.approx(float(2 * stats.t.sf(abs(welch.statistic), int(welch.df))), rel=1e-9)
        assert 2 * found.p >= float(welch.pvalue)
        low, high = found.low or 0.0, found.high or 0.0
        assert low < np.expm1(np.log(after).mean() - np.log(before).mean()) < high


def test_holm() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.9, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


def test_the_same_thing_twice_is_called_the_same() -> None:
    random = np.random.default_rng(7)
    pairs = [[measured(random, Noise(), repeats=5) for _ in range(2)] for _ in range(RUNS)]
    assert sum(bool(compare(*each).significant) for each in pairs) <= RUNS / 20
    # The noise is worth the trouble: a plain test finds "changes" in far more of them.
    assert sum(bool(compare(*each, smallest=0.0).significant) for each in pairs) > RUNS / 20


def test_a_planted_regression_is_always_called() -> None:
    random = np.random.default_rng(8)
    for _ in range(RUNS):
        found = compare(measured(random, Noise()), measured(random, Noise(), slower=1.5))
        assert found.significant
        assert all(change.worse for _, change in found.significant)


def test_an_improvement_is_no_regression() -> None:
    random = np.random.default_rng(9)
    found = compare(measured(random, Noise()), measured(random, Noise(), slower=0.6))
    assert found.significant
    assert not any(change.worse for _, change in found.significant)
    assert broken(found, [condition("p99>+10%"), condition("throughput<-5%")]) == []


def test_one_repeat_gone_wrong_is_no_regression() -> None:
    before = study([record("m", 1, [1000.0, 1001.0, 1002.0, 1000.5, 999.5])])
    after = study([record("m", 1, [1000.0, 1001.0, 999.0, 1000.5, 400.0])])
    assert compare(before, after).significant == []


def test_few_repeats_are_not_judged(tmp_path: Path) -> None:
    held = pair(tmp_path, study([record("m", 1, [1000.0, 1001.0])]), study([record("m", 1, [500.0, 501.0])]))
    done = compared(*held)
    assert done.exit_code == 0
    assert "1 of 1 points have too few repeats" in done.output
    assert "-50.0%" in done.output
    # In CI silence would be worse than a false alarm.
    done = compared(*held, "--fail-if", "throughput<-5%")
    assert done.exit_code == BenchmarkFailed.exit_code
    assert "it may be noise" in done.output


@pytest.mark.parametrize(
    ("limit", "slower", "exit_code"),
    [("p99>+10%", 1.5, 6), ("p99>+60%", 1.3, 0), ("throughput<-5%", 1.5, 6), ("throughput < -50 %", 1.3, 0),
     ("p50>+2%", 1.5, 6), ("avg>+10%", 1.5, 6), ("p50>+10%", 0.7, 0)],
)  # fmt: skip
def test_limits_for_ci(tmp_path: Path, limit: str, slower: float, exit_code: int) -> None:
    random = np.random.default_rng(1)
    quiet = Noise(run=0.0, drift=0.01, tail=0.02, hiccup=0.0)
    held = pair(tmp_path, measured(random, quiet, repeats=5), measured(random, quiet, repeats=5, slower=slower))
    done = compared(*held, "--fail-if", limit)
    assert done.exit_code == exit_code, done.output
    assert ("--fail-if" in done.output) == (exit_code != 0)


@pytest.mark.parametrize("text", ["p98>10%", "p99>10", "p99", "p99=10%", "latency>1%", ""])
def test_a_limit_that_is_none(text: str) -> None:
    with pytest.raises(SpecError, match="--fail-if"):
        condition(text)


def test_a_point_that_does_not_work_any_more_breaks_every_limit(tmp_path: Path) -> None:
    works = record("m", 1, [1000.0, 1001.0, 1002.0])
    gone = replace(works, repeats=(), status="failed", error="the server does not answer")
    held = pair(tmp_path, study([works]), study([gone]))
    done = compared(*held, "--fail-if", "p99>+10%")
    assert done.exit_code == BenchmarkFailed.exit_code
    assert "the server does not answer" in done.output
    assert compared(*held).exit_code == 0


def test_what_cannot_be_compared_is_said(tmp_path: Path) -> None:
    one, two, three = (record("m", level, [100.0 * level] * 3) for level in (1, 2, 3))
    before = study([one, two], machine={"cpu": "a CPU", "gpus": ["H100"]})
    after = study([two, three], name="later", machine={"cpu": "a CPU", "gpus": ["H200"]})
    done = compared(*pair(tmp_path, before, after))
    assert done.exit_code == 0, done.output
    assert "before: m, 1 concurrent" in done.output
    assert "after: m, 3 concurrent" in done.output
    assert "NOT THE SAME SURROUNDINGS: machine gpus: H100 before, H200 after" in done.output


def test_nothing_in_common_is_an_error(tmp_path: Path) -> None:
    held = pair(tmp_path, study([record("m", 1, [1.0])]), study([record("n", 1, [1.0])]))
    done = compared(*held)
    assert done.exit_code == BenchmarkFailed.exit_code
    assert "no point in common" in done.output


def test_json_and_markdown(tmp_path: Path) -> None:
    before = study([record(NASTY, 1, [1000.0, 1001.0, 1002.0])])
    after = study([record(NASTY, 1, [500.0, 501.0, 502.0])])
    held = pair(tmp_path, before, after)
    done = compared(*held, "--json", "--fail-if", "p50>+10%")
    document = json.loads(done.stdout)
    assert done.exit_code == BenchmarkFailed.exit_code
    assert [change["metric"] for change in document["points"][0]["changes"]] == list(SMALLEST)
    assert all(change["significant"] for change in document["points"][0]["changes"])
    assert len(document["broken"]) == 1
    done = compared(*held, "--markdown")
    assert done.exit_code == 0
    assert "<script>" not in done.stdout.replace("\\<", "")
    assert "1001 → 501 (-50.0%) worse" in done.stdout
    assert compared(*held, "--markdown", "--json").exit_code == 2


def test_a_sleep_in_a_real_model_is_called(
    measured_server: Deployment, perf_analyzer: PerfAnalyzer, tmp_path: Path
) -> None:
    """The same model twice, and once with 20 ms more; perf_analyzer's own CSV files are what is compared."""
    moods = {"first": 1.0, "again": 1.0, "slower": -4.0}
    files: dict[str, list[Path]] = {name: [] for name in moods}
    for index in range(3):
        for name, mood in moods.items():
            files[name].append(level(perf_analyzer, measured_server.http, mood, tmp_path / f"{name}-{index}.csv"))
    merged = {name: combined(each, tmp_path / f"{name}.csv") for name, each in files.items()}
    # The machine may be busy with anything: so what is planted is large, and all are measured in turn.
    done = compared(str(merged["first"]), str(merged["slower"]), "--fail-if", "p50>+100%", "--json")
    assert done.exit_code == BenchmarkFailed.exit_code, done.output
    done = compared(str(merged["first"]), str(merged["again"]), "--fail-if", "p50>+100%")
    assert done.exit_code == 0, done.output


def level(analyzer: PerfAnalyzer, server: str, mood: float, report: Path) -> Path:
    data = report.with_suffix(".json")
    data.write_text(json.dumps({"data": [{"X": [mood]}]}))
    argv = [str(analyzer.binary), "-m", "moody", "-u", server, "--concurrency-range", "1"]
    argv += ["--measurement-mode", "count_windows", "--measurement-request-count", "20", "-s", "1000000", "-r", "3"]
    argv += ["--input-data", str(data), "--verbose-csv", "-f", str(report)]
    done = subprocess.run(argv, env=dict(analyzer.env), capture_output=True, text=True, check=False, timeout=60)
    assert report.is_file(), done.stdout + done.stderr
    return report


def combined(files: list[Path], target: Path) -> Path:
    """Several measurements as one file: a row each."""
    texts = [file.read_text().strip().splitlines() for file in files]
    target.write_text("\n".join([texts[0][0], *(line for _, *lines in texts for line in lines)]) + "\n")
    return target
