"""Finding and installing the real perf_analyzer, with pip and the package registry as they are."""

from __future__ import annotations

import importlib.util
import os
import subprocess
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest

from tritonkit.errors import CommandFailed, ToolMissing
from tritonkit.tools import perf_analyzer
from tritonkit.tools.perf_analyzer import PerfAnalyzer, find, install, probe

real_find_spec = importlib.util.find_spec


@pytest.fixture
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache with nothing in it, and no perf_analyzer on PATH; the folder that one would be kept in."""
    monkeypatch.setenv("TRITONKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    monkeypatch.setenv("PIP_RETRIES", "10")
    return tmp_path / "cache" / "perf_analyzer"


def script(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def test_nothing_is_there(empty_cache: Path) -> None:
    with pytest.raises(ToolMissing) as caught:
        find()
    assert caught.value.hint == "tritonkit doctor --install"
    assert not empty_cache.exists()


def test_install_gives_one_that_runs_and_keeps_it(empty_cache: Path) -> None:
    told: list[str] = []
    installed = install(told.append)
    assert installed == find()
    assert installed.binary == empty_cache / installed.version / "bin" / "perf_analyzer"
    assert [folder.name for folder in empty_cache.iterdir()] == [installed.version]
    assert len(told) == 2
    written = installed.binary.stat().st_mtime_ns
    assert install(told.append) == installed
    assert installed.binary.stat().st_mtime_ns == written
    assert len(told) == 2


def test_a_damaged_one_in_the_cache_is_replaced(empty_cache: Path, perf_analyzer: PerfAnalyzer) -> None:
    damaged = empty_cache / perf_analyzer.version / "bin" / "perf_analyzer"
    damaged.parent.mkdir(parents=True)
    damaged.write_bytes(perf_analyzer.binary.read_bytes()[:100_000])
    damaged.chmod(0o755)
    with pytest.raises(ToolMissing):
        find()
    assert install(lambda _said: None).binary == damaged
    assert find().binary == damaged


def test_the_placeholder_of_the_registry_is_not_taken(empty_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(perf_analyzer, "_NATIVE_GLIBC", (2, 0))
    monkeypatch.setattr(perf_analyzer, "_NATIVE_REQUIREMENT", "perf-analyzer==0.1.0")
    with pytest.raises(ToolMissing, match=r"perf_analyzer-0\.1\.0.* is the empty placeholder"):
        install(lambda _said: None)
    assert list(empty_cache.iterdir()) == []


@pytest.mark.parametrize("text", ["exit 0", "echo 'perf_analyzer 0.1.0'", "exit 99", "kill -9 $$"])
def test_something_else_of_that_name_on_path_is_passed_over(
    empty_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    script(tmp_path / "bin" / "perf_analyzer", text)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    with pytest.raises(ToolMissing):
        find()


def test_one_on_path_that_runs_is_taken(
    empty_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, perf_analyzer: PerfAnalyzer
) -> None:
    variables = " ".join(f"{name}={value}" for name, value in perf_analyzer.env.items())
    binary = script(tmp_path / "bin" / "perf_analyzer", f'exec env {variables} {perf_analyzer.binary} "$@"')
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    found = find()
    assert (found.binary, found.env) == (binary, {})
    assert found.version


def test_the_program_is_taken_and_not_the_wrapper_that_loses_its_exit_code(
    empty_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, perf_analyzer: PerfAnalyzer
) -> None:
    """As the wheel of 2.60.0 installs it."""
    packages = tmp_path / "lib" / "python3.12" / "site-packages"
    variables = " ".join(f"{name}={value}" for name, value in perf_analyzer.env.items())
    program = script(
        packages / "perf_analyzer" / "bin" / "perf_analyzer", f'exec env {variables} {perf_analyzer.binary} "$@"'
    )
    (packages / "perf_analyzer-2.60.0.dist-info").mkdir()
    wrapper = script(
        tmp_path / "bin" / "perf_analyzer", f'# from perf_analyzer.cli import main\n{program} "$@"; exit 0'
    )
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    found = find()
    assert (found.binary, found.version) == (program, "2.60.0")
    unreachable = ["-m", "none", "-u", "127.0.0.1:1"]
    assert subprocess.run([wrapper, *unreachable], capture_output=True, check=False).returncode == 0
    assert subprocess.run([found.binary, *unreachable], capture_output=True, check=False).returncode == 99


def test_the_wheels_version_counts(perf_analyzer: PerfAnalyzer) -> None:
    libraries = perf_analyzer.env.get("LD_LIBRARY_PATH", "").split(":")[0]
    found = probe(perf_analyzer.binary, Path(libraries) if libraries else None, version="9.9.9")
    assert found is not None
    assert found.version == "9.9.9"


def test_no_pip(empty_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def without_pip(name: str, package: str | None = None) -> ModuleSpec | None:
        return None if name == "pip" else real_find_spec(name, package)

    monkeypatch.setattr(importlib.util, "find_spec", without_pip)
    with pytest.raises(ToolMissing, match=r"pip is missing[\s\S]*ensurepip"):
        install(lambda _said: None)
    assert list(empty_cache.iterdir()) == []


def test_a_package_that_the_registry_lacks(empty_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(perf_analyzer, "_NATIVE_GLIBC", (2, 0))
    monkeypatch.setattr(perf_analyzer, "_NATIVE_REQUIREMENT", "perf-analyzer==0.0.0.dev0")
    with pytest.raises(CommandFailed, match=r"No matching distribution found for perf-analyzer==0\.0\.0\.dev0"):
        install(lambda _said: None)
    assert list(empty_cache.iterdir()) == []


def test_libraries_that_are_missing_are_named(empty_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(perf_analyzer, "_LIBRARIES", {})
    monkeypatch.setattr(perf_analyzer, "_NATIVE_GLIBC", (999,))
    with pytest.raises(ToolMissing, match=r"does not run here: .*libb64\.so\.0d[\s\S]*tritonkit\[server\]"):
        install(lambda _said: None)
    assert list(empty_cache.iterdir()) == []


def test_probe_of_nothing(tmp_path: Path) -> None:
    assert probe(tmp_path / "perf_analyzer") is None
    (tmp_path / "perf_analyzer").write_bytes(b"")
    assert probe(tmp_path / "perf_analyzer") is None
