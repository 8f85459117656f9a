"""Studies with the real server and the real perf_analyzer: deployments, co-location, and whatever interrupts them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from measured import ADD, MOODY
from serving import PROGRAM, processes_naming, tritonkit, wait_for

from tritonkit.bench.colocation import interference
from tritonkit.bench.records import Record, load
from tritonkit.serve import Deployment
from tritonkit.tools.perf_analyzer import PerfAnalyzer

SPEC = """
version: 1
models:
  add:
    backend: python
    source: src/add
    max_batch_size: 8
    input: {X: "FP32[4]"}
    output: {Y: "FP32[4]"}
    instance_group: [{count: 1, kind: KIND_CPU}]
  moody:
    backend: python
    source: src/moody
    max_batch_size: 0
    input: {X: "FP32[1]"}
    output: {Y: "FP32[1]"}
    instance_group: [{count: 1, kind: KIND_CPU}]
    samples: {X: [-4]}
"""
QUICK = "warmup: 0\nrepeats: 1\nmeasurement: {interval_ms: 300, stability_percentage: 1000}\n"
HEAD = f"version: 1\nspec: spec.yaml\n{QUICK}"


@pytest.fixture
def project(tmp_path: Path, perf_analyzer: PerfAnalyzer) -> Path:
    for name, source in (("add", ADD), ("moody", MOODY)):
        (tmp_path / "src" / name).mkdir(parents=True)
        (tmp_path / "src" / name / "model.py").write_text(source)
    (tmp_path / "spec.yaml").write_text(SPEC)
    return tmp_path


def study(project: Path, text: str, *more: str, **options: Any) -> subprocess.CompletedProcess[str]:
    (project / "study.yaml").write_text(HEAD + text)
    return tritonkit(project, "bench", "study.yaml", "-o", "out", *more, **options)


def records(project: Path) -> dict[str, Record]:
    return {record.label: record for record in load(project / "out").records}


@contextmanager
def background(project: Path, text: str, *before: str) -> Iterator[subprocess.Popen[str]]:
    (project / "study.yaml").write_text(HEAD + text)
    process = subprocess.Popen(
        [*before, str(PROGRAM), "bench", "study.yaml", "-o", "out"],
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


def points(project: Path) -> int:
    return len(list(project.glob("out/points/*/point.json")))


def test_deployments_are_built_brought_up_measured_and_taken_down(project: Path) -> None:
    text = (
        "models: [add]\nload: {concurrency: 2}\ndeployment:\n"
        "  models.add.instance_group[0].count: [1, 2]\n"
        "  models.add.backend: [python, pytohn]\n"
    )
    done = study(project, text, "--json")
    assert done.returncode == 6
    assert "2 of 4 points failed" in done.stderr
    found = records(project)
    assert len(found) == 4
    assert len(json.loads(done.stdout)["points"]) == 4
    good = [record for record in found.values() if record.configuration["models.add.backend"] == "python"]
    assert all(record.repeats and record.status == "ok" for record in good)
    # The server really had what the row says.
    document = load(project / "out").document
    counts = [
        each["models"]["add"]["instance_group"][0]["count"]
        for each in document["deployments"].values()
        if each["configuration"]["models.add.backend"] == "python"
    ]
    assert sorted(counts) == [1, 2]
    for record in found.values():
        if record not in good:
            assert (record.status, record.repeats) == ("unbuilt", ())
            assert "pytohn" in (record.error or "")
    assert not processes_naming(project)
    # Points that were measured are not measured again; those that could not be built are tried again.
    before = {label: (project / "out/points" / label / "point.json").stat().st_mtime_ns for label in found}
    again = study(project, text)
    assert "2 of 4 points were measured before" in again.stderr
    after = {label: (project / "out/points" / label / "point.json").stat().st_mtime_ns for label in found}
    assert {label for label in found if before[label] == after[label]} == {record.label for record in good}
    # A model whose code has changed is another one.
    source = project / "src/add/model.py"
    source.write_text(source.read_text() + "# changed\n")
    first = text.replace("[1, 2]", "[1]").replace(", pytohn", "")
    assert "were measured before" not in study(project, first).stderr
    assert len(list(project.glob("out/superseded/*count=1*python*"))) >= 1


def test_a_dry_run_says_what_would_be_done_and_what_cannot(project: Path) -> None:
    text = (
        "models: [add]\nload: {concurrency: 1}\nvariants: [{name: good}, {name: bad, set: {models.add.source: nope}}]\n"
    )
    done = study(project, text, "--dry-run")
    assert done.returncode == 6
    assert "bad: " in done.stderr
    assert "nope" in done.stderr
    assert "#   --set 'models.add.source=\"nope\"'" in done.stdout
    assert len([line for line in done.stdout.splitlines() if "perf_analyzer -m add" in line]) == 2
    assert not (project / "out").exists()


@pytest.mark.alone
def test_models_together_are_held_against_themselves_alone(project: Path) -> None:
    text = (
        "together:\n"
        "  - name: pair\n    models: {add: {request_rate: 50}, moody: {concurrency: 1}}\n"
        "  - name: played\n    models: [add, moody]\n"
        "    workload: {rates: {kind: constant, mean: 60}, seconds: 6, interval: 2, popularity: even}\n"
    )
    done = study(project, text)
    assert done.returncode == 0, done.stderr
    found = interference(load(project / "out").records)
    assert [(one.together.model, one.together.together) for one in found] == [
        ("add", ("add", "moody")), ("moody", ("add", "moody")),
    ] * 2  # fmt: skip
    for one in found:
        assert one.alone.together == ()
        assert 0.3 < one.throughput_kept < 2
        assert one.p99_ratio > 0
        assert one.together.repeats[0].overlap > 0.5
    played = found[2].together
    assert played.load.kind == "intervals"
    assert played.repeats[0].throughput == pytest.approx(30, rel=0.25)
    assert "interference: times in ms" in done.stdout
    # Both were under load at the same time: their perf_analyzers were.
    assert len({record.repeats[0].started for record in (found[0].together, found[1].together)}) == 1


def test_a_server_that_dies_costs_its_point_and_not_the_study(project: Path) -> None:
    deadly = "if self.count > 5:\n            import os\n            os.kill(os.getppid(), 9)\n        mood = int("
    (project / "src/moody/model.py").write_text(MOODY.replace("mood = int(", deadly))
    text = "models: [add, moody]\nload: {concurrency: [1, 2]}\n"
    done = study(project, text)
    assert done.returncode == 6
    found = {(record.model, record.load.value): record for record in load(project / "out").records}
    assert [found["add", value].status for value in (1, 2)] == ["ok", "ok"]
    assert [found["moody", value].status for value in (1, 2)] == ["failed", "failed"]
    assert "2 of 4 points failed" in done.stderr
    assert not processes_naming(project)


MANY = "models: [add]\nload: {concurrency: 1:40}\n"


def test_killed_at_once_and_gone_on_with(project: Path) -> None:
    with background(project, MANY) as process:
        wait_for(lambda: points(project) >= 2, seconds=120)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    wait_for(lambda: not processes_naming(project), seconds=15)
    kept = {file: file.read_bytes() for file in project.glob("out/points/*/point.json")}
    assert len(load(project / "out").records) == len(kept)
    few = "models: [add]\nload: {concurrency: 1:40}\n"
    with background(project, few) as process:
        wait_for(lambda: points(project) > len(kept), seconds=120)
        process.send_signal(signal.SIGINT)
        said, _ = process.communicate(timeout=40)
    assert process.returncode == 130
    assert f"results: {Path('out')}" in said
    assert {file: file.read_bytes() for file in kept} == kept
    assert load(project / "out").document["state"] == "interrupted"
    assert not processes_naming(project)


def test_a_full_disk_keeps_what_was_measured_and_says_so(measured_server: Deployment, tmp_path: Path) -> None:
    text = f"version: 1\nurl: {measured_server.http}\ngrpc_url: {measured_server.grpc}\n{QUICK}{MANY}"
    (tmp_path / "study.yaml").write_text(text)
    # The largest file that may be written: the table grows beyond it after some points, as on a disk that fills.
    argv = ["prlimit", "--fsize=5000", str(PROGRAM), "bench", "study.yaml", "-o", "out"]
    done = subprocess.run(argv, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=250)
    assert done.returncode == 6
    assert "the results cannot be written: File too large" in done.stderr
    assert "What was measured before is kept in out" in done.stderr
    kept = load(tmp_path / "out").records
    assert 2 <= len(kept) < 40
    assert all(record.repeats for record in kept)
    # And it goes on where it stopped, when there is room.
    (tmp_path / "study.yaml").write_text(text.replace("1:40", f"1:{len(kept) + 1}"))
    again = tritonkit(tmp_path, "bench", "study.yaml", "-o", "out")
    assert again.returncode == 0, again.stderr
    assert "points were measured before" in again.stderr
    assert len(load(tmp_path / "out").records) == len(kept) + 1


@pytest.mark.alone
def test_the_best_of_a_real_grid_is_found_in_fewer_points(project: Path) -> None:
    (project / "spec.yaml").write_text(SPEC.replace("[-4]", "[-5]"))
    text = "models: [moody]\nload: {concurrency: 1:6}\ndeployment: {'models.moody.instance_group[0].count': [1, 2]}\n"
    longer = ("--set", "measurement.interval_ms=500")
    done = study(project, text, "--find", "max-throughput", "--subject-to", "p90<70ms", *longer)
    assert done.returncode == 0, done.stderr
    # A request takes 50 ms: with as many clients as instances none waits for another.
    # With one more, half of the requests wait: the median may be with or without a wait, the 90th percentile not.
    assert "best: count=2: moody, batch 1, http, 2 concurrent" in done.stderr
    searched = [record for record in load(project / "out").records if record.repeats]
    assert f"({len(searched)} of 12 points measured)" in done.stderr
    assert len(searched) <= 8
    # The whole grid takes over what the search has measured, and has nothing that is better by more than 5%.
    assert study(project, text, *longer).returncode == 0
    grid = load(project / "out").records
    assert len(grid) == 12
    assert all(record in grid for record in searched)

    def best(records: Sequence[Record]) -> float:
        return max(one.repeats[0].throughput for one in records if one.repeats[0].latency_p90 < 70_000)

    assert best(searched) >= 0.95 * best(grid)
    none = study(project, text, "--find", "max-throughput", "--subject-to", "p50<1ms", *longer)
    assert none.returncode == 7
    assert "no point keeps to p50<1ms" in none.stderr


SERVICE = """
import sys, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        self.answer(200)
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        time.sleep(0.02)
        self.answer(200 if body == b"please" else 400)
    def answer(self, status):
        self.send_response(status)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"ok")
    def log_message(self, *arguments):
        pass
ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


@pytest.mark.alone
def test_a_service_that_is_no_triton_is_measured_beside_it(tmp_path: Path, perf_analyzer: PerfAnalyzer) -> None:
    (tmp_path / "service.py").write_text(SERVICE)
    (tmp_path / "body").write_text("please")
    (tmp_path / "wrong").write_text("give me")
    python = str(PROGRAM.with_name("python"))
    command = f"command: [{python}, service.py, '{{port}}']"
    (tmp_path / "study.yaml").write_text(
        # Long enough that a stall of the machine leaves the rates of one and of four clients comparable.
        f"version: 1\n{QUICK.replace('300', '2000')}experiments:\n  baselines:\n    endpoints: [plain, wrong, broken]\n"
        f"    load: {{concurrency: [1, 4]}}\nservices:\n"
        f"  plain: {{{command}, body: body, ready: /}}\n"
        f"  wrong: {{{command}, body: wrong}}\n"
        f"  broken: {{command: [{python}, -c, 'raise SystemExit(3)'], body: body}}\n"
    )
    done = tritonkit(tmp_path, "bench", "study.yaml", "-o", "out")
    assert done.returncode == 6
    assert "wrong: HTTP 400" in done.stderr
    assert "broken ended with 3" in done.stderr
    found = {(record.model, record.load.value): record for record in load(tmp_path / "out").records}
    one, four = found["plain", 1], found["plain", 4]
    assert 20_000 < one.repeats[0].latency_p50 < 60_000
    assert four.repeats[0].throughput > 2 * one.repeats[0].throughput
    assert one.repeats[0].usage.cpu_percent is not None
    assert (found["broken", 1].status, found["wrong", 4].repeats) == ("unbuilt", ())
    assert not processes_naming(tmp_path)
    assert "2 of 6 points were measured before" in tritonkit(tmp_path, "bench", "study.yaml", "-o", "out").stderr


def test_servers_behind_a_gateway_count_together(project: Path) -> None:
    (project / "spec.yaml").write_text(SPEC + "servers:\n  - {name: a, replicas: 1}\n")
    done = study(project, "models: [add]\nload: {concurrency: 4}\ndeployment: {servers.a.replicas: [1, 2]}\n")
    assert done.returncode == 0, done.stderr
    for record in load(project / "out").records:
        (repeat,) = record.repeats
        assert sum(size * count for size, count in repeat.batches.items()) >= (repeat.requests or 0) > 0
    assert not processes_naming(project)


@pytest.mark.gpu
def test_a_deployment_is_given_its_gpu_and_its_use_is_sampled(project: Path) -> None:
    done = study(project, "models: [add]\nload: {concurrency: 4}\ndeployment: {gpus: [[0]]}\n")
    assert done.returncode == 0, done.stderr
    (record,) = load(project / "out").records
    assert record.configuration == {"gpus": ["0"]}
    assert record.repeats[0].usage.gpu_percent is not None
    assert record.repeats[0].usage.gpu_memory_mib is not None
