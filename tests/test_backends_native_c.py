"""The C part of the onnxruntime backend without a server: as careful as the compiler and its sanitizers can tell."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from onnx import helper
from test_backends_onnxruntime import FLOAT, INT64, TABLE, write

from tritonkit.backends.batching import configuration
from tritonkit.serve import native_backend
from tritonkit.serve.backend_directory import OWN_BACKENDS
from tritonkit.tools import c_compiler

HARNESS = Path(__file__).parent / "native" / "harness.c"
SOURCES = [file for file in native_backend.sources(OWN_BACKENDS) if file.suffix == ".c"]
WARNINGS = ("-std=c11", "-D_GNU_SOURCE", "-Wall", "-Wextra", "-Wshadow", "-Wstrict-prototypes", "-Werror")
SANITIZED = ("-g", "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover")
# Calls that the harness counts, and lets fail.
WRAPPED = ",".join(f"--wrap={name}" for name in ("malloc", "calloc", "aligned_alloc", "strdup"))


@pytest.fixture(scope="module")
def harness(tmp_path_factory: pytest.TempPathFactory) -> Path:
    program = tmp_path_factory.mktemp("harness") / "harness"
    files = [str(file) for file in (HARNESS, *SOURCES) if file.name != "backend.c"]
    argv = [*c_compiler.find(), *WARNINGS, *SANITIZED, f"-Wl,{WRAPPED}", "-o", str(program), *files, "-ldl", "-pthread"]
    # The functions of CUDA that it brings are found as the server's are.
    argv.append("-rdynamic")
    subprocess.run(argv, check=True)
    (program.parent / native_backend.ONNXRUNTIME).symlink_to(native_backend.onnxruntime_library())
    return program


def run(harness: Path, *arguments: object, config: Mapping[str, Any] | str = "") -> str:
    done = subprocess.run(
        [str(harness), *map(str, arguments)],
        input=config if isinstance(config, str) else json.dumps(config),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout


def test_it_compiles_without_a_warning(tmp_path: Path) -> None:
    files = list(map(str, SOURCES))
    argv = [*c_compiler.find(), *WARNINGS, "-O2", "-fPIC", "-shared", "-o", str(tmp_path / "library.so"), *files]
    subprocess.run(argv, check=True)


def test_files_stay_small() -> None:
    for file in native_backend.sources(OWN_BACKENDS):
        lines = file.read_text().splitlines()
        assert len(lines) <= 300, file
        assert max(map(len, lines)) <= 120, file


def test_it_exports_what_a_backend_must_and_nothing_else(tmp_path: Path) -> None:
    library = tmp_path / native_backend.LIBRARY
    c_compiler.shared_library(SOURCES, library)
    listed = subprocess.run(["nm", "-D", "--defined-only", str(library)], capture_output=True, text=True, check=True)
    exported = {line.split()[-1] for line in listed.stdout.splitlines()}
    assert exported == {
        f"TRITONBACKEND_{name}"
        for name in (
            "Initialize", "Finalize", "GetBackendAttribute", "ModelInitialize", "ModelFinalize",
            "ModelInstanceInitialize", "ModelInstanceFinalize", "ModelInstanceExecute",
        )
    }  # fmt: skip


TWO = {
    "name": "m",
    "max_batch_size": 32,
    "input": [
        {"name": "x", "data_type": "TYPE_FP32", "dims": [3]},
        {"name": "index", "data_type": "TYPE_INT64", "dims": [1]},
    ],
    "output": [
        {"name": "z", "data_type": "TYPE_FP32", "dims": [3]},
        {"name": "value", "data_type": "TYPE_FP32", "dims": [1]},
    ],
    "instance_group": [{"name": "m_0", "kind": "KIND_CPU", "count": 1, "host_policy": ""}],
}


def two(repository: Path) -> Path:
    """The version folder of a model with two inputs, one of which can be at fault."""
    nodes = [
        helper.make_node("Add", ["x", "x"], ["z"]),
        helper.make_node("Gather", ["table", "index"], ["value"]),
    ]
    return write(
        repository,
        "m",
        nodes,
        [("x", FLOAT, ["batch", 3]), ("index", INT64, ["batch", 1])],
        [("z", FLOAT, ["batch", 3]), ("value", FLOAT, ["batch", 1])],
        weights={"table": TABLE},
    ).parent


def test_nothing_is_leaked_or_touched_wrongly_whatever_fails(harness: Path, tmp_path: Path) -> None:
    """Random requests, each answer checked; then each allocation and each of Triton's calls fails once."""
    said = run(harness, "soak", harness.parent, two(tmp_path), 3000, config=TWO)
    found = re.fullmatch(r"answered (\d+), refused (\d+), failed allocations (\d+), failed calls (\d+)\n", said)
    assert found is not None
    answered, refused, allocations, calls = map(int, found.groups())
    assert answered > 5000
    assert refused > 500
    assert allocations > 50
    assert calls > 50


def test_the_functions_of_onnxruntime_are_where_they_are_said_to_be(harness: Path) -> None:
    """Those that no inference would miss; the others have failed every other test if they are not."""
    said = dict(line.split(": ", 1) for line in run(harness, "slots", harness.parent).splitlines())
    assert "execution_mode" in said["SetSessionExecutionMode"]
    assert "graph_optimization_level" in said["SetSessionGraphOptimizationLevel"]
    assert "key" in said["AddSessionConfigEntry"]


def groups(*stated: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [{"kind": "KIND_CPU", "host_policy": "", "count": 1, **group} for group in stated]


def vector(**more: Any) -> dict[str, Any]:
    return {"name": "x", "data_type": "TYPE_FP32", "dims": [3], **more}


def parameters(**stated: str) -> dict[str, Any]:
    return {name: {"string_value": value} for name, value in stated.items()}


CONFIGURATIONS: Sequence[tuple[int, str, Mapping[str, Any]]] = [
    (4, "m_0_0", {}),
    (8, "m_0_3", {"instance_group": groups({"name": "m_0", "count": 4})}),
    (12, "m_0_0", {"instance_group": groups({"name": "m_0", "count": 4}, {"name": "m_1", "count": 2})}),
    (8, "m_1_0", {"instance_group": groups({"name": "m_0", "kind": "KIND_GPU", "count": 4}, {"name": "m_1"})}),
    (8, "m_1_1", {"instance_group": groups({"name": "m_0", "host_policy": "a"}, {"name": "m_1", "count": 2})}),
    (1, "m_0_0", {"instance_group": groups({"name": "m_0", "count": 9})}),
    (7, "with_names_0_1", {"instance_group": groups({"name": "with_names_0", "count": 2})}),
    (2, "m_0_0", {"parameters": parameters(intra_op_thread_count="5", inter_op_thread_count="3", execution_mode="1")}),
    (2, "m_0_0", {"parameters": parameters(own_process="FALSE")}),
    *((2, "m_0_0", {"optimization": {"graph": {"level": level}}}) for level in (-2, -1, 0, 1, 2, 3)),
    (2, "m_0_0", {"max_batch_size": 0, "input": [vector(dims=[-1, "3"])]}),
    (2, "m_0_0", {"input": [vector(reshape={"shape": []})], "output": [vector(reshape={"shape": [3, 1]})]}),
    (2, "m_0_0", {"input": [vector(data_type=f"TYPE_{kind}") for kind in ("BOOL", "UINT8", "FP16", "FP64", "INT32")]}),
]  # fmt: skip


@pytest.mark.parametrize(("cores", "instance", "stated"), CONFIGURATIONS)
def test_a_configuration_means_what_it_means_in_python(
    cores: int,
    instance: str,
    stated: Mapping[str, Any],
    harness: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    backend: Any,
) -> None:
    config = {
        "name": "m", "max_batch_size": 8, "input": [vector()], "output": [vector(name="y")],
        "instance_group": groups({"name": "m_0"}), **stated,
    }  # fmt: skip
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / "model.onnx").touch()
    said = run(harness, "plan", cores, instance, tmp_path / "1", config=config).splitlines()
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)))
    model = configuration.read(
        {
            "model_config": json.dumps(config), "model_instance_kind": "CPU", "model_instance_device_id": "0",
            "model_instance_name": instance, "model_repository": str(tmp_path), "model_version": "1",
        }
    )  # fmt: skip
    options = backend._options(model)
    batch = [-1] if model.max_batch_size else []
    assert said == [
        f"intra {options.intra_op_num_threads}",
        f"inter {options.inter_op_num_threads}",
        f"mode {int(options.execution_mode)}",
        f"level {int(options.graph_optimization_level)}",
        f"file {configuration.model_file(model.folder, model.config, backend.DEFAULT_FILENAME)}",
        *(
            " ".join(map(str, [side, tensor.name, tensor.type, *batch, *tensor.dims]))
            for side, tensors in (("input", model.inputs), ("output", model.outputs))
            for tensor in tensors
        ),
    ]


@pytest.mark.parametrize("value", ["+2", "-2", " 2", "2 ", "2_0", "0x2", "2.0", "", "99999999999"])
def test_a_count_that_is_none(harness: Path, tmp_path: Path, value: str) -> None:
    stated = parameters(intra_op_thread_count=value)
    said = run(harness, "plan", 1, "m_0", tmp_path, config={"parameters": stated})
    assert said == "the parameter intra_op_thread_count is no whole number\n"


def test_every_type_that_a_stub_carries_runs_inside_but_text(harness: Path, tmp_path: Path) -> None:
    (tmp_path / "model.onnx").touch()
    inside = set()
    for kind in (*configuration.NUMPY_TYPES, "TYPE_BF16"):
        config = {"max_batch_size": 0, "input": [vector(data_type=kind)], "output": [vector()]}
        if f"input x {kind} 3" in run(harness, "plan", 1, "m_0", tmp_path, config=config):
            inside.add(kind)
    assert inside == set(configuration.NUMPY_TYPES) - {configuration.STRING}


def test_a_folder_of_the_name_of_the_file_holds_the_file(harness: Path, tmp_path: Path) -> None:
    config = {"default_model_filename": "big", "input": [vector()], "output": [vector()]}
    assert run(harness, "plan", 1, "m_0", tmp_path, config=config) == "there is no model file\n"
    (tmp_path / "big").mkdir()
    assert run(harness, "plan", 1, "m_0", tmp_path, config=config) == "there is no model file\n"
    (tmp_path / "big" / "model.onnx").touch()
    assert f"file {tmp_path}/big/model.onnx\n" in run(harness, "plan", 1, "m_0", tmp_path, config=config)


@pytest.mark.parametrize(
    "text",
    [
        "", "{", '{"a"', '{"a":}', "[1,", '{"a":1}x', '"open', '{"input":[', "nul", '"\\u12"', '"\\ud800"', "[" * 1000,
        '{"input": 7, "output": "x"}', '{"input": [[]], "output": [{}]}', '{"input":[{"name":"x","dims":[1e9]}]}',
        "\0", '{"\\u0000":1}', "[1]", '{"parameters":[1]}', '{"optimization":[[1]]}',
    ],
)  # fmt: skip
def test_a_configuration_that_is_none_is_no_plan(harness: Path, tmp_path: Path, text: str) -> None:
    assert len(run(harness, "plan", 1, "m_0", tmp_path, config=text).splitlines()) == 1


def test_names_are_read_as_python_reads_them(harness: Path, tmp_path: Path) -> None:
    (tmp_path / "model.onnx").touch()
    names = ["plain", 'a "quote" and a \\', "grün", "\u65e5\u672c", "\U0001f600", "tab\tline\n", "/"]
    for written in (True, False):
        config = json.dumps(
            {"input": [vector(name=name) for name in names], "output": [vector()]}, ensure_ascii=written
        )
        said = run(harness, "plan", 1, "m_0", tmp_path, config=config)
        assert all(f"input {name} TYPE_FP32 3\n" in said for name in names)
