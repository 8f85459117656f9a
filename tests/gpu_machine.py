"""A machine with GPUs for tests: the real one under ``-m gpu``, else one made of ``tests/fake_mps``."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tritonkit.serve import mps

FAKE = Path(__file__).parent / "fake_mps"
UUIDS = ("GPU-aaaaaaaa-1111-2222-3333-444444444444", "GPU-bbbbbbbb-1111-2222-3333-444444444444")
PROGRAM = (sys.executable, str(FAKE / "program.py"))


def pretend(patch: pytest.MonkeyPatch, folder: Path, gpus: list[Mapping[str, Any]] | None = None) -> None:
    """Let this process, and what it starts, see these GPUs and a fake MPS daemon; None are two H200s."""
    file = folder / "gpus.json"
    file.write_text(json.dumps([{"uuid": uuid} for uuid in UUIDS] if gpus is None else gpus))
    patch.setenv("FAKE_NVML", str(file))
    patch.setenv("PATH", os.pathsep.join((str(FAKE), str(Path(sys.executable).parent), os.environ["PATH"])))
    patch.syspath_prepend(FAKE)
    patch.delitem(sys.modules, "pynvml", raising=False)
    patch.setattr(mps, "WITNESS", (sys.executable, "-I", "-S", str(FAKE / "witness.py")))


@pytest.fixture(scope="module", params=["fake", pytest.param("real", marks=pytest.mark.gpu)])
def gpu_machine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """``fake`` or ``real``; the tests that use it are the same on both."""
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "fake":
            pretend(patch, tmp_path_factory.mktemp("gpus"))
        yield request.param
    # What was imported for the fake is not for others.
    sys.modules.pop("pynvml", None)
