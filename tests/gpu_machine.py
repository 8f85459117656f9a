"""A machine with GPUs for tests: the real one under ``-m gpu``, else one made of ``tests/fake_mps``."""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tritonkit.serve import mps, procfs

FAKE = Path(__file__).parent / "fake_mps"
UUIDS = ("GPU-aaaaaaaa-1111-2222-3333-444444444444", "GPU-bbbbbbbb-1111-2222-3333-444444444444")
PROGRAM = (sys.executable, str(FAKE / "program.py"))


def pretend(patch: pytest.MonkeyPatch, folder: Path, gpus: list[Mapping[str, Any]] | None = None) -> None:
    """Let this process, and what it starts, see these GPUs and a fake MPS daemon; None are two H200s."""
    file = folder / "gpus.json"
    file.write_text(json.dumps([{"uuid": uuid} for uuid in UUIDS] if gpus is None else gpus))
    patch.setenv("FAKE_NVML", str(file))
    patch.setenv("PATH", os.pathsep.join((str(FAKE), str(Path(sys.executable).parent), os.environ["PATH"])))
    # Not by the path that modules are looked for on: the real one, once imported, is taken from where it stands.
    spec = importlib.util.spec_from_file_location("pynvml", FAKE / "pynvml.py")
    assert spec is not None
    assert spec.loader is not None
    patch.setitem(sys.modules, "pynvml", module := importlib.util.module_from_spec(spec))
    spec.loader.exec_module(module)
    # This driver counts processes as we do, in a container as well.
    patch.setattr(procfs, "FIRST_NAMESPACE", os.stat("/proc/self/ns/pid").st_ino)
    patch.setattr(mps, "WITNESS", (sys.executable, "-I", "-S", str(FAKE / "witness.py")))


@pytest.fixture(scope="module", params=["fake", pytest.param("real", marks=pytest.mark.gpu)])
def gpu_machine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """``fake`` or ``real``; the tests that use it are the same on both."""
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "fake":
            pretend(patch, tmp_path_factory.mktemp("gpus"))
        yield request.param
