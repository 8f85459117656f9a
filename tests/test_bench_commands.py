"""``tritonkit bench`` as people run it."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from serving import PROGRAM, processes_naming, python_model, tritonkit, wait_for

from tritonkit.bench.records import load, record
from tritonkit.serve import Deployment
from tritonkit.tools.perf_analyzer import PerfAnalyzer

QUICK = ("--measurement-interval", "300", "--stability-percentage", "1000", "--warmup", "0")


@pytest.fixture(autouse=True)
def _installed(perf_analyzer: PerfAnalyzer) -> None:
    """Every test here needs it."""


@contextmanager
def running(project: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """``tritonkit bench`` in the background; killed at the end."""
    process = subprocess.Popen(
        [str(PROGRAM), "bench", *arguments],
        cwd=project,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def points(folder: Path) -> int:
    """How many points the results on disk have."""
    return len(list(folder.glob("points/*/point.json")))


def test_a_table_and_the_files(measured_server: Deployment, tmp_path: Path) -> None:
    folder = tmp_path / "results"
    done = tritonkit(
        measured_server.project, "bench", "add", "--concurrency", "1,2", *QUICK, "--output", str(folder),
        env={"COLUMNS": "80"},
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    lines = [line.split() for line in done.stdout.splitlines() if line.strip()]
    assert lines[0] == ["add:", "times", "in", "ms"]
    assert " ".join(lines[1]) == "concurrent infer/s p50 p95 p99 queue compute batch limit"
    rows_shown = [[cell for cell in line if cell != "!"] for line in lines[3:5]]
    assert [row[0] for row in rows_shown] == ["1", "2"]
    assert max(len(line) for line in done.stdout.splitlines()[:6]) <= 80
    with (folder / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["model"], row["concurrency_requests"], row["repeats"]) for row in rows] == [
        ("add", "1", "1"),
        ("add", "2", "1"),
    ]
    # The table and the file tell the same.
    assert f"{float(rows[0]['latency_p99_us']) / 1000:.2f}" == rows_shown[0][4]
    study = load(folder)
    assert (study.document["state"], len(study.records)) == ("complete", 2)
    assert study.document["planned"] == ["add-http-b1-c1", "add-http-b1-c2"]
    (described,) = study.document["deployments"].values()
    assert described["models"]["add"]["max_batch_size"] == 8
    assert described["server"]["version"]
    first = study.records[0]
    assert first.environment["machine"]["cores"] >= 1
    assert first.environment["machine"]["cpu"]
    assert first.environment["server"] == described["server"]
    assert (first.load.kind, first.load.value) == ("concurrency", 1)
    assert first.repeats[0].throughput == float(rows[0]["throughput_per_s"])
    usage = first.repeats[0].usage.cpu_percent
    assert usage is not None
    assert 0 < usage.mean <= usage.max


def test_the_same_again_measures_nothing_and_fresh_does(measured_server: Deployment, tmp_path: Path) -> None:
    folder = tmp_path / "results"

    def run(*more: str) -> subprocess.CompletedProcess[str]:
        arguments = ("bench", "add", "--concurrency", "1,2", *QUICK, "--output", str(folder), *more)
        return tritonkit(measured_server.project, *arguments)

    assert run().returncode == 0
    file = folder / "points/add-http-b1-c1/point.json"
    first = file.read_bytes()
    again = run()
    assert "2 of 2 points were measured before" in again.stderr
    assert file.read_bytes() == first
    more = run("--repeats", "2")
    assert "points were measured before" not in more.stderr
    twice = load(folder).records[0]
    # What was measured is kept, and what is missing is added.
    assert len(twice.repeats) == 2
    assert twice.repeats[0] == record(json.loads(first)).repeats[0]
    run("--fresh")
    assert len(load(folder).records[0].repeats) == 1
    assert (folder / "superseded/add-http-b1-c1.1/point.json").exists()
    # Another seed sends other data: that is another point.
    run("--seed", "7")
    assert (folder / "superseded/add-http-b1-c1.2/point.json").exists()


def test_a_folder_that_holds_something_else_is_left_alone(measured_server: Deployment, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    done = tritonkit(measured_server.project, "bench", "add", *QUICK, "--output", str(tmp_path))
    assert done.returncode == 6
    assert "results never overwrite anything" in done.stderr
    assert [file.name for file in tmp_path.iterdir()] == ["mine.txt"]


def test_json_of_a_failed_level_and_a_good_one(measured_server: Deployment, tmp_path: Path) -> None:
    done = tritonkit(
        tmp_path, "bench", "moody", "add", "--url", measured_server.http, "--concurrency", "1", *QUICK,
        "-i", "X=[1, 2, 3, 4]", "--json",
    )  # fmt: skip
    assert done.returncode == 2, "the value fits one of the models only"
    done = tritonkit(
        tmp_path, "bench", "moody", "--url", measured_server.http, "--request-rate", "200", *QUICK,
        "-i", "X=[-1]", "--json",
    )  # fmt: skip
    assert done.returncode == 6
    assert "1 of 1 points failed" in done.stderr
    assert "the 10th request is refused" in done.stderr
    result = json.loads(done.stdout)
    assert (result["points"][0]["repeats"], result["points"][0]["status"]) == ([], "failed")
    assert result["points"][0]["notes"] == ["failed: the 10th request is refused"]
    assert points(tmp_path / result["folder"]) == 1


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("ad",), 2, "has no model 'ad'; did you mean 'add'?"),
        (("add", "--concurrency", ""), 2, "--concurrency: '':"),
        (("add", "--request-distribution", "poisson"), 2, "give --request-rate"),
        (("add", "--serve", "nope"), 2, "and nothing else is served"),
        (("add", "--streaming"), 2, "give --protocol grpc"),
        (("add", "--subject-to", "p99<20ms"), 2, "give --find max-throughput as well"),
        (("add", "--find", "throughput"), 2, "expected max-FIGURE or min-FIGURE"),
        (("add", "--find", "max-troughput"), 2, "did you mean 'throughput'"),
        (("add", "--find", "max-throughput", "--subject-to", "p99<20"), 2, "p99 is given in us, ms or s"),
        (("add", "--set", "repeats=2"), 2, "--set replaces values of a study"),
        (("image",), 6, "not an image A made-up text was sent for IMAGE. hint: Give real data with --input IMAGE=@"),
        (("types",), 2, "input I64: its shape is open (INT64[-1]): give one with --shape I64:SIZES"),
        (("add", "--concurrency", "0"), 2, "--concurrency: '0': numbers must be above 0"),
        (("add", "--protocol", "htp"), 2, "'htp' is none of http, grpc"),
        (("add", "--shape", "X"), 2, "expected NAME:SIZES"),
        (("add", "-b", "9"), 2, "a batch of 9, and it takes at most 8"),
        (("add", "--url", "127.0.0.1:1"), 1, "no server can be reached at 127.0.0.1:1"),
    ],
)
def test_faults_are_told_before_any_load(
    measured_server: Deployment, tmp_path: Path, arguments: tuple[str, ...], code: int, said: str
) -> None:
    url = () if "--url" in arguments else ("--url", measured_server.http)
    done = tritonkit(tmp_path, "bench", *arguments, *url, *QUICK)
    assert done.returncode == code, done.stderr
    assert said in " ".join(done.stderr.replace("│", " ").split())
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.rglob("point.json"))
    if arguments[0] != "image":
        # A dry run finds all of this too, apart from what only the model can say.
        dry = tritonkit(tmp_path, "bench", *arguments, *url, *QUICK, "--dry-run")
        assert (dry.returncode, said in " ".join(dry.stderr.replace("│", " ").split())) == (code, True), dry.stderr


def test_a_dry_run_prints_what_would_run_and_runs_nothing(tmp_path: Path) -> None:
    done = tritonkit(
        tmp_path, "bench", "m", "--concurrency", "1:5:4", "--protocol", "http,grpc", "--dry-run", "-o", "out"
    )
    lines = done.stdout.splitlines()
    assert len(lines) == 4
    assert " -m m -i http -u 127.0.0.1:8000 " in lines[0]
    assert " -i grpc -u 127.0.0.1:8001 " in lines[3]
    assert " --concurrency-range 5 " in lines[3]
    assert lines[3].endswith(" -f out/points/m-grpc-b1-c5/report-1.csv")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("more", [("--dry-run",), ()])
def test_a_grpc_address_alone_is_refused(tmp_path: Path, more: tuple[str, ...]) -> None:
    done = tritonkit(tmp_path, "bench", "m", "--grpc-url", "127.0.0.1:1", *more)
    assert done.returncode == 2
    assert "give --url as well" in " ".join(done.stderr.replace("│", " ").split())
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_beside_a_server_names_its_models_and_says_what_the_run_would(
    echo_server: Deployment, measured_server: Deployment
) -> None:
    done = tritonkit(echo_server.project, "bench", "--concurrency", "1", "--dry-run")
    assert [line.split(" -m ")[1].split()[0] for line in done.stdout.splitlines()] == ["echo"]
    assert f"-u {echo_server.http} " in done.stdout
    dry, run = (tritonkit(measured_server.project, "bench", "open", *more) for more in (("--dry-run",), ()))
    assert (dry.returncode, dry.stderr) == (run.returncode, run.stderr)
    assert "its shape is open" in dry.stderr


@pytest.mark.usefixtures("regions_alone")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupt_keeps_what_was_measured(
    measured_server: Deployment, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    folder = tmp_path / "out"
    arguments = ("add", "--url", measured_server.http, "--shared-memory", "system", *QUICK, "--output", str(folder))
    with running(tmp_path, *arguments, "--concurrency", "1:100", "-i", "X=[[1,2,3,4]]") as process:
        wait_for(lambda: points(folder) >= 1 and processes_naming(folder / "points"))
        process.send_signal(number)
        said, complained = process.communicate(timeout=20)
    assert process.returncode == code
    assert complained == ""
    kept = points(folder)
    assert 1 <= kept < 100
    table = said[: said.index("results: ")].splitlines()
    assert len([line for line in table if line.strip()[:1].isdigit()]) == kept
    assert load(folder).document["state"] == "interrupted"
    assert len((folder / "results.csv").read_text().splitlines()) == kept + 1
    assert not processes_naming(tmp_path)
    assert not Path("/dev/shm/X_0_0").exists()  # noqa: S108


def test_kill_9_leaves_no_perf_analyzer(measured_server: Deployment, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    # By itself it would measure for a minute.
    long = ("--warmup", "0", "--measurement-interval", "20000")
    arguments = ("add", "--url", measured_server.http, *long, "--output", str(folder))
    with running(tmp_path, *arguments) as process:
        wait_for(lambda: any("perf_analyzer" in line for line in processes_naming(folder / "points")))
        os.kill(process.pid, signal.SIGKILL)
        wait_for(lambda: not processes_naming(folder))


def test_without_a_server_one_is_started_for_the_time(tmp_path: Path) -> None:
    python_model(tmp_path / "model_repository", "echo")
    python_model(tmp_path / "model_repository", "other")
    done = tritonkit(tmp_path, "bench", "--concurrency", "1", *QUICK, "-o", "out")
    assert done.returncode == 0, done.stderr
    assert "serving model_repository for the time of the benchmark" in done.stderr
    # No model was named: all of them, one after the other.
    assert [point.model for point in load(tmp_path / "out").records] == ["echo", "other"]
    assert not processes_naming(tmp_path)


def test_no_server_and_nothing_to_serve(tmp_path: Path) -> None:
    done = tritonkit(tmp_path, "bench", "echo", *QUICK)
    assert done.returncode != 0
    assert "spec.yaml: no such file" in done.stderr
    assert "Traceback" not in done.stderr
    assert not processes_naming(tmp_path)


def test_a_placeholder_is_no_perf_analyzer(measured_server: Deployment, tmp_path: Path) -> None:
    placeholder = tmp_path / "bin" / "perf_analyzer"
    placeholder.parent.mkdir()
    placeholder.write_text("#!/bin/sh\nexit 0\n")
    placeholder.chmod(0o755)
    env = {"PATH": f"{placeholder.parent}:/usr/bin:/bin", "TRITONKIT_CACHE": str(tmp_path / "cache")}
    done = tritonkit(measured_server.project, "bench", "add", *QUICK, "-o", str(tmp_path / "out"), env=env)
    assert done.returncode == 3
    assert "tritonkit doctor --install" in done.stderr
    assert not (tmp_path / "out").exists()
