from __future__ import annotations

import platform
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tritonkit.errors import TritonkitError
from tritonkit.serve import backend_directory, native_backend
from tritonkit.tools import tritonserver

OWN_MODELS = sorted(backend_directory.OWN_BACKENDS.glob("*/model.py"))


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> tritonserver.TritonServer:
    monkeypatch.setenv("TRITONKIT_CACHE", str(tmp_path / "cache"))
    return tritonserver.find()


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """tritonkit's backends as an image has them, with the library compiled ahead."""
    folder = tmp_path / "backends"
    shutil.copytree(backend_directory.OWN_BACKENDS, folder)
    native_backend.compile_ahead(folder)
    monkeypatch.setattr(backend_directory, "OWN_BACKENDS", folder)
    return folder


def test_holds_what_the_server_needs(server: tritonserver.TritonServer) -> None:
    place = backend_directory.assemble(server)
    held = {path.relative_to(place).as_posix() for path in place.rglob("*")}
    assert {path for path in held if path.count("/") < 2 and not path.endswith("/tritonkit")} == {
        *(name for source in OWN_MODELS for name in (source.parent.name, f"{source.parent.name}/model.py")),
        "onnxruntime/libonnxruntime.so",
        "onnxruntime/libtriton_onnxruntime.so",
        "python",
        "python/libtriton_python.so",
        "python/triton_python_backend_stub",
        "python/triton_python_backend_utils.py",
    }
    assert OWN_MODELS
    for source in OWN_MODELS:
        shared = f"{source.parent.name}/tritonkit"
        assert {f"{shared}/__init__.py", f"{shared}/backends/batching/batcher.py"} <= held
        assert f"{shared}/backends/{source.parent.name}/model.py" not in held
    assert not (place / "python/libtriton_python.so").is_symlink()
    assert (place / "python/triton_python_backend_stub").resolve() == server.stub
    assert (place / "python/triton_python_backend_utils.py").is_symlink()


def test_is_made_once_and_reused(server: tritonserver.TritonServer) -> None:
    with ThreadPoolExecutor(8) as pool:
        places = set(pool.map(backend_directory.assemble, [server] * 8))
    (place,) = places
    before = place.stat().st_mtime_ns
    assert backend_directory.assemble(server) == place
    assert place.stat().st_mtime_ns == before
    assert list(place.parent.iterdir()) == [place], "nothing half made is left"


def test_another_backend_makes_another_directory(
    server: tritonserver.TritonServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    before = backend_directory.assemble(server)
    changed = tmp_path / "backends"
    shutil.copytree(backend_directory.OWN_BACKENDS, changed)
    (changed / "onnxruntime/model.py").write_text("# other\n")
    monkeypatch.setattr(backend_directory, "OWN_BACKENDS", changed)
    after = backend_directory.assemble(server)
    assert after != before
    assert (after / "onnxruntime/model.py").read_text() == "# other\n"
    assert (before / "onnxruntime/model.py").read_text() != "# other\n"


def test_a_failure_leaves_nothing(
    server: tritonserver.TritonServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(shutil, "copyfile", full)
    with pytest.raises(TritonkitError, match="cannot be made: No space left"):
        backend_directory.assemble(server)
    assert list((tmp_path / "cache/backends").iterdir()) == []


def test_what_was_compiled_ahead_needs_no_compiler(
    server: tritonserver.TritonServer, installed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = installed / native_backend.BACKEND / native_backend.LIBRARY
    native_backend.compile_ahead(installed)
    monkeypatch.setenv("CC", "/no/such/cc")
    place = backend_directory.assemble(server)
    assert native_backend.is_in(place)
    assert (place / native_backend.BACKEND / native_backend.LIBRARY).read_bytes() == library.read_bytes()


def test_what_was_compiled_ahead_of_other_sources_is_left_alone(
    server: tritonserver.TritonServer, installed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = installed / native_backend.BACKEND / "outputs.c"
    source.write_text(source.read_text() + "int later;\n")
    monkeypatch.setenv("CC", "/no/such/cc")
    assert not native_backend.is_in(backend_directory.assemble(server))
    files = native_backend.sources(installed)
    monkeypatch.delenv("CC")
    native_backend.compile_ahead(installed)
    library = installed / native_backend.BACKEND / native_backend.LIBRARY
    assert native_backend.sources(installed) == [*files, library]


def test_without_a_compiler_every_backend_is_pythons_until_there_is_one(
    server: tritonserver.TritonServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CC", "/no/such/cc")
    without = backend_directory.assemble(server)
    assert not native_backend.is_in(without)
    assert backend_directory.assemble(server) == without
    reason = without / native_backend.BACKEND / native_backend.REASON
    assert "not here: /no/such/cc. Install" in reason.read_text()
    monkeypatch.setenv("CC", "cc --no-such-flag")
    assert backend_directory.assemble(server) == without
    assert "--no-such-flag" in reason.read_text(), "the reason is today's"
    monkeypatch.delenv("CC")
    place = backend_directory.assemble(server)
    assert without.name == f"{place.name}{backend_directory.PYTHON_ONLY}"
    assert native_backend.is_in(place)
    assert not (place / native_backend.BACKEND / native_backend.REASON).exists()


def test_another_machine_makes_another_directory_and_takes_no_library_of_the_first(
    server: tritonserver.TritonServer, installed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files, before = native_backend.sources(installed), backend_directory.assemble(server)
    monkeypatch.setattr(platform, "machine", lambda: "pdp11")
    assert native_backend.sources(installed) == files[:-1]
    assert backend_directory.assemble(server) != before


def test_another_onnxruntime_makes_another_directory(
    server: tritonserver.TritonServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    before = backend_directory.assemble(server)
    other = tmp_path / "libonnxruntime.so.9"
    other.touch()
    monkeypatch.setattr(native_backend, "onnxruntime_library", lambda: other)
    after = backend_directory.assemble(server)
    assert after != before
    assert (after / native_backend.BACKEND / native_backend.ONNXRUNTIME).resolve() == other
