"""The check of the bundled server is remembered, and only for as long as nothing that it looked at has changed."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tritonkit.errors import ToolMissing
from tritonkit.serve.preflight import preflight
from tritonkit.tools import tritonserver
from tritonkit.tools.tritonserver import TritonServer


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TritonServer:
    """The bundled server with a stub that counts its runs in a file beside it."""
    monkeypatch.setenv("TRITONKIT_CACHE", str(tmp_path / "cache"))
    stub = tmp_path / "stub"
    stub.write_text(f"#!/bin/sh\necho run >> {tmp_path}/runs\nexit 1\n")
    stub.chmod(0o755)
    return replace(tritonserver.find(), stub=stub)


def runs(folder: Path) -> int:
    return len((folder / "runs").read_text().splitlines())


def test_a_good_check_is_not_repeated(server: TritonServer, tmp_path: Path) -> None:
    for _ in range(3):
        preflight(server)
    assert runs(tmp_path) == 1


def test_another_stub_is_checked(server: TritonServer, tmp_path: Path) -> None:
    preflight(server)
    assert server.stub is not None
    server.stub.write_text("#!/bin/sh\necho no library; exit 127\n")
    for _ in range(2):
        with pytest.raises(ToolMissing, match="no library"):
            preflight(server)


def test_another_environment_is_checked(server: TritonServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    preflight(server)
    monkeypatch.setenv("LD_LIBRARY_PATH", str(tmp_path))
    preflight(server)
    assert runs(tmp_path) == 2
    # Another numpy, as pip would put it before the one that is there.
    (tmp_path / "packages/numpy").mkdir(parents=True)
    (tmp_path / "packages/numpy/__init__.py").write_text("")
    (tmp_path / "packages/numpy/version.py").write_text('version = "1.99"\n')
    monkeypatch.syspath_prepend(tmp_path / "packages")
    # Other tests have imported it; the program that starts a server has not.
    monkeypatch.delitem(sys.modules, "numpy", raising=False)
    preflight(server)
    assert runs(tmp_path) == 3
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ToolMissing, match="bash is not installed"):
        preflight(server)


def test_a_cache_that_cannot_be_written_to_is_no_obstacle(
    server: TritonServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TRITONKIT_CACHE", str(tmp_path / "file"))
    preflight(server)
    preflight(server)
    assert runs(tmp_path) == 2
    assert os.path.isfile(tmp_path / "file")


def test_a_native_server_is_left_to_itself(server: TritonServer, tmp_path: Path) -> None:
    preflight(replace(server, stub=None))
    assert not (tmp_path / "runs").exists()
