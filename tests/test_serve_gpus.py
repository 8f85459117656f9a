"""The GPUs of a machine: what NVML says of them, and which are meant."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path
from urllib.request import urlopen

import pytest
from gpu_machine import UUIDS, pretend

from tritonkit.errors import SpecError, ToolMissing, TritonkitError
from tritonkit.serve import Deployment, gpus, procfs
from tritonkit.serve.gpus import Gpu


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Gpu, ...]:
    pretend(
        monkeypatch,
        tmp_path,
        [
            {"uuid": UUIDS[0], "used": 2**30, "processes": [[os.getpid(), 2**29], [2**22 + 1, None]]},
            {"uuid": UUIDS[1], "mig": 1},
            {"uuid": "GPU-aaab", "name": "Tesla P100-PCIE-16GB", "capability": [6, 0], "cores": 3584, "total": 2**34},
        ],
    )
    return gpus.inventory()


def test_inventory(machine: tuple[Gpu, ...]) -> None:
    first, second, third = machine
    assert (first.index, first.uuid, first.name, first.multiprocessors) == (0, UUIDS[0], "NVIDIA H200", 132)
    assert (first.memory_used, first.compute_capability, first.mig) == (2**30, "9.0", False)
    assert [(user.pid, user.memory) for user in first.users] == [(os.getpid(), 2**29), (2**22 + 1, None)]
    assert "python" in first.users[0].command
    assert first.users[1].command == "", "a process that we cannot see"
    assert first.mps_clients == 48
    assert first.mps_refusal == ""
    assert second.mig
    assert second.mps_refusal == "it is cut into MIG devices, which partition it already"
    assert (third.multiprocessors, third.memory_total, third.mig) == (56, 2**34, False)
    assert third.mps_refusal == "its compute capability is 6.0; MPS keeps limits from Volta (7.0) on"


def test_gpus_that_are_meant(machine: tuple[Gpu, ...]) -> None:
    def indices(*words: str) -> list[int]:
        return [gpu.index for gpu in gpus.select(words, machine)]

    assert indices("all") == [0, 1, 2]
    assert indices("1", "0", "1") == [1, 0]
    assert indices(UUIDS[1]) == [1]
    assert indices("GPU-bb") == indices("bb") == indices("GPU-BB") == [1]
    with pytest.raises(SpecError) as caught:
        indices("7", "GPU-aa", "MIG-12", "x", "-1", "GPU-")
    said = str(caught.value).splitlines()
    assert len(said) == 6
    assert caught.value.exit_code == 2
    assert f"--gpus 7,GPU-aa,MIG-12,x,-1,GPU-: no GPU 7; here: 0 (NVIDIA H200, {UUIDS[0]}), 1 (" in str(caught.value)
    assert "GPU-aa begins the UUIDs of several GPUs" in str(caught.value)
    assert "MIG-12 is a MIG device; tritonkit serves on whole GPUs" in str(caught.value)
    for words in (("all",), ("0",)):
        with pytest.raises(SpecError, match="there is no GPU"):
            gpus.select(words, ())


@pytest.mark.parametrize("call", ["nvmlDeviceGetHandleByIndex", "nvmlDeviceGetMemoryInfo"])
def test_a_gpu_that_has_fallen_off_the_bus(call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, tmp_path, [{"uuid": UUIDS[0]}, {"uuid": UUIDS[1], "refuses": call}])
    here = gpus.inventory()
    assert [gpu.fault for gpu in here] == ["", "NVML: GPU is lost"]
    assert gpus.select(["0"], here) == here[:1]
    for words in (["1"], ["all"]):
        with pytest.raises(SpecError) as caught:
            gpus.select(words, here)
        assert str(caught.value) == (
            f"--gpus {'0,1' if words == ['all'] else '1'}: GPU 1 cannot be used: NVML: GPU is lost; "
            f"here: 0 (NVIDIA H200, {UUIDS[0]}), 1 (NVML: GPU is lost)"
        )


def test_programs_are_not_told_by_the_numbers_of_others(
    machine: tuple[Gpu, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert machine[0].users[0].command
    monkeypatch.setattr(procfs, "FIRST_NAMESPACE", 0)
    user = gpus.inventory()[0].users[0]
    assert (user.pid, user.command) == (os.getpid(), "")


def test_a_machine_without_a_driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, tmp_path)
    monkeypatch.delenv("FAKE_NVML")
    with pytest.raises(ToolMissing, match=r"no NVIDIA driver answers \(NVML: Driver Not Loaded\)") as caught:
        gpus.inventory()
    assert "--gpus none" in str(caught.value.hint)
    assert gpus.present() == ()


def test_a_driver_that_does_not_answer_is_no_machine_without_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend(monkeypatch, tmp_path)
    monkeypatch.setenv("FAKE_NVML", str(tmp_path / "none"))
    for asked in (gpus.inventory, gpus.present):
        with pytest.raises(TritonkitError, match=r"refused to answer \(NVML: Driver/library version mism") as caught:
            asked()
        assert "--gpus none" in str(caught.value.hint)


@pytest.mark.skipif(gpus.has_driver(), reason="a driver runs here")
def test_the_real_nvml_without_a_driver() -> None:
    assert importlib.util.find_spec("pynvml") is not None
    with pytest.raises(ToolMissing, match=r"no NVIDIA driver answers \(NVML: \w+"):
        gpus.inventory()
    assert gpus.present() == ()


@pytest.mark.parametrize(("made", "found"), [((), False), (("version",), True), (("nvidiactl",), True)])
def test_a_driver_is_known_by_its_files(
    made: tuple[str, ...], found: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpus, "_DRIVER", (tmp_path / "version", tmp_path / "nvidiactl"))
    for name in made:
        (tmp_path / name).touch()
    assert gpus.has_driver() is found


@pytest.mark.skipif(gpus.has_driver(), reason="a driver runs here")
def test_a_server_without_a_driver_does_not_look_for_one(echo_server: Deployment) -> None:
    (server,) = echo_server.servers
    said = server.log.read_text()
    assert "Started Metrics Service" in said
    assert "NVML" not in said
    assert "DCGM" not in said
    with urlopen(f"http://{echo_server.metrics}/metrics", timeout=10) as answer:
        assert b"nv_cpu_utilization" in answer.read(), "metrics of the CPU are still there"


def test_without_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ToolMissing, match="nvidia-ml-py is not installed") as caught:
        gpus.inventory()
    assert "pip install 'nvidia-ml-py>=12.535'" in str(caught.value.hint)
    assert gpus.present() == (), "no driver either"
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    with pytest.raises(ToolMissing):
        gpus.present()
