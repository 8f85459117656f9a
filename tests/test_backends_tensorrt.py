"""The tensorrt backend as far as a machine without a GPU can tell."""

from __future__ import annotations

from ctypes.util import find_library
from pathlib import Path
from typing import Any

import pytest

from tritonkit.backends.batching.configuration import Model
from tritonkit.backends.engines import tensorrt_plans
from tritonkit.backends.engines.cuda import CudaError
from tritonkit.backends.engines.tensorrt_plans import PlanEngine, Profile, runtime_module


def test_a_profile_covers_what_lies_within_it() -> None:
    profile = Profile(None, {"x": (1, 3)}, {"x": (8, 3)})
    assert profile.covers({"x": (1, 3)})
    assert profile.covers({"x": (8, 3)})
    assert not profile.covers({"x": (9, 3)})
    assert not profile.covers({"x": (4, 2)})
    assert not profile.covers({"x": (4,)})


def test_without_tensorrt_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensorrt_plans, "MODULES", (("no_such_tensorrt",),))
    with pytest.raises(RuntimeError, match="pip install tensorrt"):
        runtime_module()


@pytest.mark.skipif(find_library("cuda") is not None, reason="there is a driver")
def test_without_a_gpu_a_plan_does_not_load(tmp_path: Path) -> None:
    config: dict[str, Any] = {"name": "m", "max_batch_size": 8}
    with pytest.raises(CudaError, match="the NVIDIA driver is not installed here"):
        PlanEngine(tmp_path / "model.plan", Model(config, tmp_path, 0, (), ()), graphs=False, say=print)
