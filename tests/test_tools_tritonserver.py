from __future__ import annotations

import importlib.metadata
import importlib.util
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from tritonkit.errors import LaunchFailed, ToolMissing
from tritonkit.serve import backend_directory
from tritonkit.tools import tritonserver


@pytest.fixture
def no_native(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tritonserver, "NATIVE_ROOT", tmp_path / "nowhere")
    monkeypatch.setenv("PATH", str(tmp_path))


def native(root: Path) -> Path:
    binary = root / "bin" / "tritonserver"
    binary.parent.mkdir(parents=True)
    binary.write_text("#!/bin/sh\n")
    binary.chmod(0o755)
    (root / "TRITON_VERSION").write_text("2.55.0\n")
    return binary


def test_finds_the_wheel_and_does_not_import_it(no_native: None) -> None:
    server = tritonserver.find()
    assert server.binary.name == "tritonserver"
    assert server.binary.is_file()
    assert server.version == f"nvidia-pytriton {importlib.metadata.version('nvidia-pytriton')}"
    assert server.bundled
    assert server.stub is not None
    assert server.stub.parent.name == f"{sys.version_info.major}.{sys.version_info.minor}"
    assert (server.caches / "local").is_dir()
    assert "pytriton" not in sys.modules


@pytest.mark.parametrize("on_path", [True, False])
def test_a_native_server_wins(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, on_path: bool) -> None:
    binary = native(tmp_path / "opt")
    monkeypatch.setenv("PATH", str(binary.parent) if on_path else "/nowhere")
    monkeypatch.setattr(tritonserver, "NATIVE_ROOT", tmp_path / "nowhere" if on_path else tmp_path / "opt")
    server = tritonserver.find()
    assert (server.binary, server.version, server.bundled) == (binary, "2.55.0", False)
    tritonserver.check(server)
    assert backend_directory.assemble(server) == tmp_path / "opt" / "backends"


def test_no_server_at_all(no_native: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(ToolMissing, match="tritonserver is not installed") as caught:
        tritonserver.find()
    assert caught.value.hint == "Install it with: pip install 'tritonkit[server]'"


def test_no_stub_for_this_python(no_native: None, monkeypatch: pytest.MonkeyPatch) -> None:
    python = SimpleNamespace(version_info=SimpleNamespace(major=3, minor=14))
    monkeypatch.setattr(tritonserver, "sys", python)
    with pytest.raises(ToolMissing, match=r"no Python stub for Python 3\.14; it has: 3\.10, 3\.11"):
        tritonserver.find()


def test_numpy_2_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.metadata, "version", lambda _: "2.1.3")
    with pytest.raises(LaunchFailed, match=r"numpy 2\.1\.3") as caught:
        tritonserver.check(tritonserver.find())
    assert "pip install 'numpy<2'" in str(caught.value.hint)


def test_numpy_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    server = tritonserver.find()
    monkeypatch.setattr(importlib.metadata, "version", missing)
    with pytest.raises(ToolMissing, match="numpy is not installed"):
        tritonserver.check(server)


def test_a_stub_that_does_not_start_is_found_before_the_server_waits_for_it(tmp_path: Path) -> None:
    server = tritonserver.find()
    tritonserver.check(server)
    unloadable = tmp_path / "stub"
    unloadable.write_text("#!/bin/sh\necho 'libpython3.11.so.1.0: cannot open shared object file'; exit 127\n")
    unloadable.chmod(0o755)
    with pytest.raises(ToolMissing, match=r"exit code 127\): libpython3\.11\.so\.1\.0: cannot open") as caught:
        tritonserver.check(replace(server, stub=unloadable))
    assert "--enable-shared" in str(caught.value.hint)
    with pytest.raises(ToolMissing, match="does not start"):
        tritonserver.check(replace(server, stub=tmp_path / "gone"))


def test_an_environment_without_bash_or_python3(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = tritonserver.find()
    with monkeypatch.context() as patch:
        patch.setenv("PATH", str(tmp_path))
        with pytest.raises(ToolMissing, match="bash is not installed"):
            tritonserver.check(server)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    with pytest.raises(ToolMissing, match="has no python3"):
        tritonserver.check(server)
