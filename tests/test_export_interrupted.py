"""Exports that are killed, stopped or raced: the cache and the repository stay whole, and the next run works."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from exporting import Project, spec, torch_spec
from onnx_models import identity
from serving import wait_for

from tritonkit.artifacts import cache as artifact_cache
from tritonkit.modelconfig.text import parse

PLAN = spec("net.onnx", backend="tensorrt", max_batch_size="8", export="{compute_capabilities: [8.9]}")


def started(folder: Path) -> subprocess.Popen[str]:
    argv = [sys.executable, "-m", "tritonkit", "build-repo", "spec.yaml"]
    return subprocess.Popen(argv, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def reached(cache: Path, pattern: str, process: subprocess.Popen[str]) -> Callable[[], bool]:
    def look() -> bool:
        return bool(list(cache.glob(pattern))) or process.poll() is not None

    return look


def watch(what: Callable[[], bool]) -> None:
    # As tight as can be: the moments are milliseconds apart.
    while not what():
        pass


MOMENTS = {
    "the staging folder is there": "artifacts/staging-*",
    "the worker is running": "artifacts/staging-*/log",
    "the artifact is being written": "artifacts/staging-*/made/model.plan",
    "the record is written": "artifacts/staging-*/made/*.json",
    "the artifact is published": "artifacts/[0-9a-f]*",
}


def killed(folder: Path, cache: Path, pattern: str) -> int:
    """Kill a first run when there is what a pattern names; its exit code, which is 0 where it had ended before."""
    for made in (cache / "artifacts", folder / "model_repository"):
        shutil.rmtree(made, ignore_errors=True)
    with started(folder) as victim:
        watch(reached(cache, pattern, victim))
        victim.kill()
    return victim.returncode


@pytest.mark.parametrize("moment", MOMENTS)
def test_killed_at_a_moment_the_next_run_completes(tmp_path: Path, cache: Path, moment: str) -> None:
    identity(tmp_path / "net.onnx")
    project = Project(tmp_path, PLAN)
    assert wait_for(lambda: killed(tmp_path, cache, MOMENTS[moment])) == -signal.SIGKILL
    check_whole(cache, tmp_path)
    assert project.run("build-repo", "spec.yaml").exit_code == 0
    assert project.run("build-repo", "spec.yaml", "--check").exit_code == 0
    assert not list(cache.glob("artifacts/staging-*"))


def check_whole(cache: Path, folder: Path) -> None:
    """No half entry, no half repository, and no worker that goes on."""
    for entry in cache.glob("artifacts/*-*"):
        if not entry.name.startswith("staging-"):
            assert artifact_cache.read(entry) is not None
    for file in (folder / "model_repository").glob("*/config.pbtxt"):
        assert parse(file.read_text()).name == file.parent.name
    wait_for(lambda: not workers(cache))


@pytest.mark.parametrize("stage", ["log", "made/model.onnx"])
def test_killed_while_torch_exports(tmp_path: Path, cache: Path, stage: str) -> None:
    Project(tmp_path, torch_spec())
    victim = started(tmp_path)
    with victim:
        watch(reached(cache, f"artifacts/staging-*/{stage}", victim))
        assert wait_for(lambda: workers(cache))
        victim.kill()
    check_whole(cache, tmp_path)
    assert not (tmp_path / "model_repository").exists()


def workers(cache: Path) -> list[int]:
    """The living worker processes that fill a cache."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            words = (entry / "cmdline").read_bytes() if entry.name.isdigit() else b""
            if b"tritonkit.artifacts.worker" in words and os.fsencode(cache) in (entry / "environ").read_bytes():
                found.append(int(entry.name))
        except OSError:
            continue
    return found


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_stopped_it_leaves_nothing(tmp_path: Path, cache: Path, number: signal.Signals, code: int) -> None:
    Project(tmp_path, torch_spec())
    asked = started(tmp_path)
    with asked:
        watch(reached(cache, "artifacts/staging-*/log", asked))
        asked.send_signal(number)
        _, words = asked.communicate(timeout=30)
    assert asked.returncode == code, words
    assert "Traceback" not in words
    assert not list(cache.glob("artifacts/*"))
    # One that had hardly begun ends by itself, as soon as it sees that nobody is there.
    wait_for(lambda: not workers(cache))


def test_a_worker_that_is_killed_is_an_error(tmp_path: Path, cache: Path) -> None:
    Project(tmp_path, torch_spec())
    asked = started(tmp_path)
    with asked:
        (worker,) = wait_for(lambda: workers(cache))
        os.kill(worker, signal.SIGKILL)
        _, words = asked.communicate(timeout=30)
    assert asked.returncode == 4
    assert "net: the export ended unexpectedly (killed by signal 9)" in words
    assert not list(cache.glob("artifacts/*"))


def test_two_exports_at_once_make_one_artifact(tmp_path: Path, cache: Path) -> None:
    identity(tmp_path / "net.onnx")
    argv = [sys.executable, "-m", "tritonkit", "export", "spec.yaml"]
    Project(tmp_path, PLAN)
    both = [subprocess.Popen(argv, cwd=tmp_path, stdout=subprocess.DEVNULL) for _ in range(2)]
    assert [process.wait(60) for process in both] == [0, 0]
    assert len(list(cache.glob("artifacts/*"))) == 1
