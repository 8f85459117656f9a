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

from tritonkit.serve import Deployment
from tritonkit.tools.perf_analyzer import PerfAnalyzer

QUICK = ("--measurement-interval", "150", "--stability-percentage", "1000")


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
    """How many load levels the results on disk have."""
    try:
        return len(json.loads((folder / "results.json").read_text())["points"])
    except FileNotFoundError:
        return 0


def test_a_table_and_the_files(measured_server: Deployment, tmp_path: Path) -> None:
    folder = tmp_path / "results"
    done = tritonkit(
        measured_server.project, "bench", "add", "--concurrency", "1,2", *QUICK, "--output", str(folder),
        env={"COLUMNS": "80"},
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    lines = [line.split() for line in done.stdout.splitlines() if line.strip()]
    assert lines[0] == ["add:", "times", "in", "ms"]
    assert " ".join(lines[1]) == "concurrent infer/s p50 p90 p95 p99 queue compute batch"
    rows_shown = [[cell for cell in line if cell != "!"] for line in lines[3:5]]
    assert [row[0] for row in rows_shown] == ["1", "2"]
    assert max(len(line) for line in done.stdout.splitlines()[:6]) <= 80
    with (folder / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["model"], row["concurrency"], row["stable"]) for row in rows] == [
        ("add", "1", "True"),
        ("add", "2", "True"),
    ]
    # The table and the file tell the same.
    assert f"{float(rows[0]['latency_p99']) / 1000:.2f}" == rows_shown[0][5]
    document = json.loads((folder / "results.json").read_text())
    assert (document["state"], document["planned"], len(document["points"])) == ("complete", 2, 2)
    assert document["models"]["add"]["max_batch_size"] == 8
    assert document["machine"]["cores"] >= 1
    assert document["machine"]["cpu"]
    assert document["server"]["version"]
    assert document["points"][0]["level"]["load"] == {"kind": "Concurrency", "requests": 1}
    assert document["points"][0]["row"]["throughput"] == float(rows[0]["throughput"])
    before = (folder / "results.json").read_bytes()
    again = tritonkit(measured_server.project, "bench", "add", *QUICK, "--output", str(folder))
    assert again.returncode == 6
    assert "results never overwrite anything" in again.stderr
    assert (folder / "results.json").read_bytes() == before


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
    assert "1 of 1 load levels failed" in done.stderr
    assert "the 50th request is refused" in done.stderr
    result = json.loads(done.stdout)
    assert result["points"][0]["row"] is None
    assert result["points"][0]["notes"] == ["failed: the 50th request is refused"]
    assert points(tmp_path / result["folder"]) == 1


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("ad",), 2, "has no model 'ad'"),
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
    assert said in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_prints_what_would_run_and_runs_nothing(tmp_path: Path) -> None:
    done = tritonkit(
        tmp_path, "bench", "m", "--concurrency", "1:5:4", "--protocol", "http,grpc", "--dry-run", "-o", "out"
    )
    lines = done.stdout.splitlines()
    assert len(lines) == 4
    assert " -m m -i http -u 127.0.0.1:8000 " in lines[0]
    assert " -i grpc -u 127.0.0.1:8001 " in lines[3]
    assert " --concurrency-range 5 " in lines[3]
    assert lines[3].endswith(" -f out/m-grpc-b1-c5/report.csv")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("more", [("--dry-run",), ()])
def test_a_grpc_address_alone_is_refused(tmp_path: Path, more: tuple[str, ...]) -> None:
    done = tritonkit(tmp_path, "bench", "m", "--grpc-url", "127.0.0.1:1", *more)
    assert done.returncode == 2
    assert "give --url as well" in " ".join(done.stderr.replace("│", " ").split())
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_beside_a_server_names_its_models(measured_server: Deployment) -> None:
    done = tritonkit(measured_server.project, "bench", "--concurrency", "1", "--dry-run")
    assert [line.split(" -m ")[1].split()[0] for line in done.stdout.splitlines()] == [
        "add", "image", "moody", "nested", "open", "twice", "types",
    ]  # fmt: skip
    assert f"-u {measured_server.http} " in done.stdout


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupt_keeps_what_was_measured(
    measured_server: Deployment, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    folder = tmp_path / "out"
    arguments = ("add", "--url", measured_server.http, "--shared-memory", "system", *QUICK, "--output", str(folder))
    with running(tmp_path, *arguments, "--concurrency", "1:100", "-i", "X=[[1,2,3,4]]") as process:
        wait_for(lambda: points(folder) >= 1 and processes_naming(folder / "add-http-shm-b1-c2"))
        process.send_signal(number)
        said, complained = process.communicate(timeout=20)
    assert process.returncode == code
    assert complained == ""
    kept = points(folder)
    assert 1 <= kept < 100
    table = said[: said.index("results: ")].splitlines()
    assert len([line for line in table if line.strip()[:1].isdigit()]) == kept
    assert json.loads((folder / "results.json").read_text())["state"] == "interrupted"
    assert len((folder / "results.csv").read_text().splitlines()) == kept + 1
    assert not processes_naming(tmp_path)
    assert not Path("/dev/shm/X_0_0").exists()  # noqa: S108


def test_kill_9_leaves_no_perf_analyzer(measured_server: Deployment, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    arguments = ("add", "--url", measured_server.http, "--measurement-interval", "5000", "--output", str(folder))
    with running(tmp_path, *arguments) as process:
        wait_for(lambda: any("perf_analyzer" in line for line in processes_naming(folder / "add-http-b1-c1")))
        os.kill(process.pid, signal.SIGKILL)
        wait_for(lambda: not processes_naming(folder), seconds=5)


def test_without_a_server_one_is_started_for_the_time(tmp_path: Path) -> None:
    python_model(tmp_path / "model_repository", "echo")
    python_model(tmp_path / "model_repository", "other")
    done = tritonkit(tmp_path, "bench", "--concurrency", "1", *QUICK, "-o", "out")
    assert done.returncode == 0, done.stderr
    assert "serving model_repository for the time of the benchmark" in done.stderr
    document = json.loads((tmp_path / "out" / "results.json").read_text())
    # No model was named: all of them, one after the other.
    assert [point["level"]["model"] for point in document["points"]] == ["echo", "other"]
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
