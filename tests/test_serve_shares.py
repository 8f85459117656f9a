"""Who gets which part of which GPU, and what is found wrong before anything is started."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tritonkit.errors import SpecError
from tritonkit.serve import shares
from tritonkit.serve.gpus import Gpu
from tritonkit.serve.seats import Machine, Mps, Seat
from tritonkit.serve.stored_models import StoredModel, stored_models, with_members
from tritonkit.spec.faults import Origin
from tritonkit.spec.servers import Server

GIB = 2**30
H200 = Gpu(0, "GPU-a", "NVIDIA H200", 132, 141 * GIB, 0, "9.0")
OTHER = replace(H200, index=1, uuid="GPU-b")


def model(name: str, config: str = "") -> StoredModel:
    return StoredModel(name, Path("/models") / name, ("1",), {"config.pbtxt": config})


GROUPS = 'backend: "{backend}" instance_group [{{ count: {count} kind: KIND_GPU {gpus} }}]'
STORED = {
    "a": model("a", GROUPS.format(backend="onnxruntime", count=2, gpus="")),
    "b": model("b", GROUPS.format(backend="tensorrt", count=3, gpus="gpus: [1]")),
    "both": model(
        "both", 'platform: "ensemble" ensemble_scheduling { step { model_name: "a" } step { model_name: "c" } }'
    ),
    "c": model("c", 'backend: "python"'),
}
MACHINE = Machine(
    gpus=(H200, OTHER),
    present=(H200, OTHER),
    models=STORED,
    python_backends=frozenset({"python", "onnxruntime"}),
    mps_program=Path("/usr/bin/nvidia-cuda-mps-control"),
)


def entry(name: str, index: int = 0, **values: Any) -> Server:
    return Server(name, index, **values, origins={"": Origin("spec.yaml", 10 + index)})


def names(found: Sequence[Seat]) -> list[str]:
    return [seat.name for seat in found]


def said(*entries: Server, machine: Machine = MACHINE, mps: Mps = "auto") -> list[str]:
    """Every fault of servers that serve all models."""
    with pytest.raises(SpecError) as caught:
        shares.seats(entries, mps, machine)
    return str(caught.value).splitlines()


def test_one_seat_for_each_server_gpu_and_replica() -> None:
    only_a = replace(MACHINE, models={"a": STORED["a"]})
    assert names(shares.seats([Server("server")], "auto", only_a)) == ["server-gpu0", "server-gpu1"]
    one = replace(only_a, gpus=(OTHER,))
    (seat,) = shares.seats([Server("server")], "auto", one)
    assert (seat.name, seat.gpu, seat.mps, seat.neighbours, seat.first) == ("server", OTHER, True, 1, True)
    found = shares.seats([Server("x", replicas=2), Server("y", 1, gpus=("GPU-b",))], "off", only_a)
    assert names(found) == ["x-gpu0-r0", "x-gpu0-r1", "x-gpu1-r0", "x-gpu1-r1", "y"]
    assert [(seat.neighbours, seat.first, seat.mps) for seat in found] == [
        (2, True, False), (2, False, False), (3, True, False), (3, False, False), (3, False, False),
    ]  # fmt: skip


def test_on_a_machine_without_gpus() -> None:
    bare = Machine(models=STORED)
    found = shares.seats([Server("x", replicas=2)], "auto", bare)
    assert [(seat.name, seat.gpu, seat.mps) for seat in found] == [("x-r0", None, False), ("x-r1", None, False)]
    assert said(entry("x", thread_percentage=30, gpus=(0,)), machine=bare) == [
        "spec.yaml:10: servers[0].gpus: no GPU 0; there is no GPU here; "
        "`up --gpus none` serves on the CPU, without limits"
    ]
    limited = entry("x", thread_percentage=30, memory_limit=GIB)
    assert [fault.split(": ", 2)[1] for fault in said(limited, machine=bare)] == [
        "servers[0].memory_limit", "servers[0].thread_percentage",
    ]  # fmt: skip
    asked = shares.seats([limited], "auto", bare, cpu_asked=True)
    assert names(asked) == ["x"]
    assert shares.notes(asked, "auto", bare, cpu_asked=True) == ("on the CPU nothing limits x",)


def test_members_of_ensembles_come_along() -> None:
    assert with_members(["both"], STORED) == ("a", "both", "c")
    found = shares.seats([Server("x", models=("both",)), Server("y", 1, models=("b",), gpus=(1,))], "auto", MACHINE)
    assert [seat.models for seat in found] == [("a", "both", "c"), ("a", "both", "c"), ("b",)]


def test_all_faults_of_a_plan_together() -> None:
    faults = said(
        entry("x", 0, models=("both", "nosuch"), gpus=(0,), thread_percentage=60, memory_limit=30 * GIB),
        entry("y", 1, models=("both",), gpus=(0, 7), thread_percentage=70, memory_limit=10 * GIB),
    )
    assert faults == [
        "spec.yaml:10: servers: no server has the model b; add them to one, or leave them out (members of an ensemble "
        "come along, and models that a Python model calls do not)",
        "spec.yaml:10: servers[0].models: no model 'nosuch' in the repository; known: a, b, both, c",
        "spec.yaml:11: servers[1].gpus: no GPU 7; here: 0 (NVIDIA H200, GPU-a), 1 (NVIDIA H200, GPU-b)",
        "spec.yaml:11: servers[1].memory_limit: GPU 0 has 141.0 GiB of memory, less than the limits on it: "
        "x 4 processes with 30GiB, y 4 processes with 10GiB; the limit is that of each process: tritonserver, and "
        "every Python-based instance",
        "spec.yaml:11: servers[1].thread_percentage: the thread percentages on GPU 0 sum to 130, above 100: x 60, y 70",
    ]


def test_replicas_count_towards_the_sum() -> None:
    one = replace(MACHINE, gpus=(H200,), models={"a": STORED["a"]})
    assert said(entry("x", thread_percentage=60, replicas=2), machine=one) == [
        "spec.yaml:10: servers[0].thread_percentage: the thread percentages on GPU 0 sum to 120, above 100: "
        "x-r0 60, x-r1 60"
    ]
    shares.seats([entry("x", thread_percentage=50, replicas=2)], "auto", one)


def test_limits_of_memory_are_those_of_each_process() -> None:
    one = replace(MACHINE, gpus=(H200,), models={"a": STORED["a"]})
    # tritonserver, and an instance each in a process of its own.
    shares.seats([entry("x", memory_limit=47 * GIB)], "auto", one)
    (fault,) = said(entry("x", memory_limit=48 * GIB), machine=one)
    assert "x 3 processes with 48GiB; the limit is that of each process" in fault
    native = replace(one, python_backends=frozenset({"python"}))
    shares.seats([entry("x", memory_limit=141 * GIB)], "auto", native)
    assert said(entry("x", memory_limit=142 * GIB), machine=native) == [
        "spec.yaml:10: servers[0].memory_limit: GPU 0 has 141.0 GiB of memory, less than the limits on it: x 142GiB"
    ]


def test_a_gpu_that_cannot_be_used_is_refused_where_it_is_asked_for() -> None:
    lost = replace(OTHER, name="", uuid="", fault="NVML: GPU is lost")
    machine = replace(MACHINE, gpus=(H200,), present=(H200, lost), models={"a": STORED["a"]})
    seats = shares.seats([entry("x")], "auto", machine)
    assert [seat.gpu for seat in seats] == [H200]
    assert shares.notes(seats, "auto", machine) == ("GPU 1 cannot be used: NVML: GPU is lost",)
    here = "0 (NVIDIA H200, GPU-a), 1 (NVML: GPU is lost)"
    assert said(entry("x", gpus=(0, 1)), machine=machine) == [
        f"spec.yaml:10: servers[0].gpus: GPU 1 cannot be used: NVML: GPU is lost; here: {here}"
    ]
    alone = replace(machine, gpus=(), present=(lost,))
    assert said(entry("x"), machine=alone) == [
        "spec.yaml:10: servers[0].gpus: none of the GPUs here can be used: 1 (NVML: GPU is lost); "
        "`up --gpus none` serves on the CPU, without limits"
    ]


def test_an_instance_group_that_names_other_gpus() -> None:
    faults = said(entry("x"))
    assert faults == [
        "spec.yaml:10: servers[0].gpus: model 'b' has no instance on GPU 0: its instance_group names other GPUs only"
    ]


def test_a_gpu_that_the_option_leaves_out() -> None:
    chosen = replace(MACHINE, gpus=(OTHER,))
    assert said(entry("x", gpus=(0,)), machine=chosen) == [
        "spec.yaml:10: servers[0].gpus: names GPU 0, which --gpus leaves out (chosen: 1)"
    ]
    assert said(entry("x", gpus=("GPU-b", 1)), machine=chosen) == ["spec.yaml:10: servers[0].gpus: names GPU 1 twice"]


def test_more_clients_than_mps_takes() -> None:
    many = {"a": model("a", GROUPS.format(backend="onnxruntime", count=23, gpus=""))}
    machine = replace(MACHINE, gpus=(H200,), models=many)
    shares.seats([Server("x")], "auto", machine)
    (fault,) = said(entry("x", replicas=2), machine=machine)
    assert "GPU 0 would have 48 client processes (x-r0 24, x-r1 24; every Python-based instance is one)" in fault
    assert "MPS takes 48, of which tritonkit needs 1" in fault
    shares.seats([Server("x", replicas=2)], "off", machine)
    later = replace(machine, gpus=(replace(H200, mps_clients=60),))
    shares.seats([Server("x", replicas=2)], "auto", later)
    native = replace(machine, python_backends=frozenset({"python"}))
    shares.seats([Server("x", replicas=2)], "auto", native)


@pytest.mark.parametrize(
    ("machine", "mps", "reason"),
    [
        (MACHINE, "off", "--mps off"),
        (replace(MACHINE, mps_program=None), "auto", "nvidia-cuda-mps-control is not installed"),
        (replace(MACHINE, gpus=(replace(OTHER, mig=True),)), "auto", "it is cut into MIG devices"),
        (replace(MACHINE, gpus=(replace(OTHER, compute_capability="6.1"),)), "auto", "its compute capability is 6.1"),
    ],
)
def test_limits_that_nothing_can_keep(machine: Machine, mps: Mps, reason: str) -> None:
    machine = replace(machine, gpus=machine.gpus[-1:], present=machine.gpus[-1:])
    fault = said(entry("x", thread_percentage=30), machine=machine, mps=mps)[0]
    assert fault.startswith(
        f"spec.yaml:10: servers[0].thread_percentage: only MPS can keep this limit on GPU 1: {reason}"
    )
    if mps == "auto":
        seats = shares.seats([entry("x")], mps, machine)
        assert not seats[0].mps
        (note,) = shares.notes(seats, mps, machine)
        assert note.startswith("GPU 1 is shared in time slices, without MPS: ")
        assert said(entry("x"), machine=machine, mps="on")[0].startswith(
            f"spec.yaml:10: servers[0].gpus: --mps on: {reason}"
        )


def test_percentages_of_many_processes_are_noted() -> None:
    machine = replace(MACHINE, gpus=(H200,), models={"a": STORED["a"]})
    seats = shares.seats([entry("x", thread_percentage=40)], "auto", machine)
    assert shares.notes(seats, "auto", machine) == (
        "x: 40% is the ceiling of each of its processes (tritonserver and 2 Python-based instances): together they may "
        "use 100%",
    )
    assert shares.notes(shares.seats([entry("x", thread_percentage=30)], "auto", machine), "auto", machine) == ()


def test_two_servers_cannot_give_one_process_name() -> None:
    machine = replace(MACHINE, models={"a": STORED["a"]})
    (fault,) = said(entry("x", replicas=2, gpus=(0,)), entry("x-r1", 1, gpus=(1,)), machine=machine)
    assert fault == "spec.yaml:11: servers[1].name: its process x-r1 would have the name of another server's"


def test_gpus_of_instance_groups_as_a_server_sees_them(tmp_path: Path) -> None:
    folder = tmp_path / "models" / "m"
    (folder / "1").mkdir(parents=True)
    (folder / "configs").mkdir()
    (folder / "labels.txt").write_text("")
    groups = (
        "instance_group [{ count: 2 kind: KIND_GPU gpus: [0, 1] }, { count: 1 kind: KIND_GPU gpus: [1] }, "
        "{ count: 3 kind: KIND_CPU }]"
    )
    (folder / "config.pbtxt").write_text(f'name: "m"\nbackend: "onnxruntime"\n{groups}\n')
    (folder / "configs" / "fast.pbtxt").write_text('backend: "onnxruntime" instance_group [{ gpus: [1] }]')
    stored = stored_models(tmp_path / "models", ["m"])["m"]
    assert stored.entries == ("1", "labels.txt")
    assert (stored.instances_on(0), stored.instances_on(1), stored.instances_on(2)) == (5, 6, 3)
    assert [stored.instances_on(gpu, computing_there=True) for gpu in range(3)] == [2, 3, 0]
    one = stored.configs_for(1)
    again = StoredModel("m", folder, (), one).config
    assert [(group.count, list(group.gpus)) for group in again.instance_group] == [(2, [0]), (1, [0]), (3, [])]
    assert "for GPU 1 alone" in one["config.pbtxt"]
    assert "gpus: [0]" in one["configs/fast.pbtxt"].replace("gpus: 0", "gpus: [0]")
    assert stored.configs_for(None) == stored.configs


def test_a_configuration_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "config.pbtxt").write_text('backend: "python"\nnonsense: 1\n')
    broken = stored_models(tmp_path, ["m"])
    with pytest.raises(SpecError) as caught:
        shares.seats([Server("x")], "auto", replace(MACHINE, models=broken))
    assert f"{tmp_path}/m/config.pbtxt:2: is no ModelConfig: " in str(caught.value)
