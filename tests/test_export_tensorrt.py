"""From ONNX to TensorRT plans, with TensorRT for RTX, which builds for GPUs that are not here."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import onnx
import plan_file
import pytest
from exporting import Project, spec
from onnx import TensorProto, helper
from onnx_models import identity

from tritonkit.artifacts import fitness, provenance
from tritonkit.artifacts.fitness import Serving
from tritonkit.errors import ExportFailed
from tritonkit.modelconfig.text import parse

ROOT = Path(__file__).parent.parent
SPEC = """\
version: 1
models:
  net: {source: net.onnx, max_batch_size: 8}
  plan:
    source: {model: net}
    backend: tensorrt
    max_batch_size: 8
    dynamic_batching: {preferred_batch_size: [4]}
    export: {compute_capabilities: [8.9, 12.0], workspace: 1GiB, builder_optimization_level: 3}
"""


def relu(path: Path, operator: str = "Relu", domain: str = "") -> Path:
    dims = ("batch", 3, "height", 8)
    tensors = [helper.make_tensor_value_info(name, TensorProto.FLOAT, dims) for name in ("pixels", "features")]
    node = helper.make_node(operator, ["pixels"], ["features"], name="odd", domain=domain)
    graph = helper.make_graph([node], "net", tensors[:1], tensors[1:])
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("elsewhere", 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), str(path))
    return path


def plan_spec(**export: str) -> str:
    keys = {"compute_capabilities": "[8.9]", **export}
    words = ", ".join(f"{key}: {value}" for key, value in keys.items())
    return spec("net.onnx", backend="tensorrt", max_batch_size="8", export=f"{{{words}}}")


PROFILE = "[{pixels: {min: [1, 3, 4, 8], opt: [4, 3, 8, 8], max: [8, 3, 16, 8]}}]"


def test_plans_for_two_gpus_at_once(tmp_path: Path, cache: Path) -> None:
    identity(tmp_path / "net.onnx", ("batch", 3, 8, 8), names=("pixels", "features"))
    project = Project(tmp_path, SPEC)
    result = project.run("build-repo", "spec.yaml")
    assert result.exit_code == 0, result.output
    version = tmp_path / "model_repository/plan/1"
    for capability, name in (("8.9", "model_sm89.plan"), ("12.0", "model_sm120.plan")):
        # Read back from the file, which has to say what the record says.
        plan = (version / name).read_bytes()
        assert plan_file.stated_size(plan) == len(plan)
        assert plan_file.binding(plan, "pixels", 4) == plan_file.binding(plan, "features", 4) == (-1, 3, 8, 8)
        assert plan_file.profiles(plan, 4) == [((1, 3, 8, 8), (4, 3, 8, 8), (8, 3, 8, 8))]
        record = provenance.read(version / name)
        assert record is not None
        assert record.compute_capability == capability
        # What TensorRT itself says of the network that it built, and of the profile that it took.
        assert [str(tensor) for tensor in record.inputs] == ["FP32[-1,3,8,8]"]
        assert [(tensor.name, str(tensor)) for tensor in record.outputs] == [("features", "FP32[-1,3,8,8]")]
        shapes = {"min": [1, 3, 8, 8], "opt": [4, 3, 8, 8], "max": [8, 3, 8, 8]}
        assert json.loads(json.dumps(record.profiles)) == [{"pixels": shapes}]
        assert list(record.tools) == ["tensorrt-rtx-cu13-bindings"]
        assert record.parity == {
            "proved": False,
            "reason": f"there is no GPU of compute capability {capability} here to run it on",
        }
    config = parse((version.parent / "config.pbtxt").read_text())
    assert dict(config.cc_model_filenames) == {"8.9": "model_sm89.plan", "12.0": "model_sm120.plan"}
    assert config.backend == "tensorrt"
    assert [(tensor.name, list(tensor.dims)) for tensor in config.input] == [("pixels", [3, 8, 8])]
    assert list(cache.glob("timing/*-8.9.cache"))
    assert '"unchanged": 7' in project.run("build-repo", "spec.yaml", "--json").stdout


def test_a_plan_that_is_not_proved_says_so(tmp_path: Path, cache: Path) -> None:
    identity(tmp_path / "net.onnx")
    project = Project(tmp_path, plan_spec())
    (row,) = project.export()
    assert row["made"] == "model.plan"
    assert "NOT PROVED" in row["exactness"]


def test_profiles_are_stated_or_derived(tmp_path: Path, cache: Path) -> None:
    relu(tmp_path / "net.onnx")
    project = Project(tmp_path, plan_spec())
    assert "dimensions of the input 'pixels' (FP32[-1,3,-1,8]) vary within no limits" in project.refused()
    project.write(plan_spec(profiles=PROFILE))
    (row,) = project.export()
    record = provenance.read(Path(row["path"]))
    assert record is not None
    assert record.profiles[0]["pixels"]["max"] == [8, 3, 16, 8]
    plan = Path(row["path"]).read_bytes()
    assert plan_file.binding(plan, "pixels", 4) == (-1, 3, -1, 8)
    assert plan_file.profiles(plan, 4) == [((1, 3, 4, 8), (4, 3, 8, 8), (8, 3, 16, 8))]
    second = PROFILE[1:].replace("16, 8", "64, 8")
    project.write(plan_spec(profiles=f"{PROFILE[:-1]}, {second}"))
    (row,) = project.export()
    largest = [shapes[2] for shapes in plan_file.profiles(Path(row["path"]).read_bytes(), 4)]
    assert largest == [(8, 3, 16, 8), (8, 3, 64, 8)]


BAD = {
    "a smaller profile than the batch": (PROFILE.replace("max: [8", "max: [7"), 2, "cover batches up to 7"),
    "a profile upside down": (PROFILE.replace("min: [1, 3, 4, 8]", "min: [1, 3, 9, 8]"), 4, "MIN<=OPT<=MAX"),
    "a profile of something else": (PROFILE.replace("pixels", "pixel"), 4, "'pixel' does not vary, or is no input"),
    "a profile of another rank": (PROFILE.replace(", 8]", "]"), 4, "profile 0 has 3 dimensions"),
}


@pytest.mark.parametrize("case", BAD)
def test_profiles_that_do_not_fit(tmp_path: Path, cache: Path, case: str) -> None:
    profile, code, words = BAD[case]
    relu(tmp_path / "net.onnx")
    assert words in Project(tmp_path, plan_spec(profiles=profile)).refused(code=code)
    assert not list(cache.glob("artifacts/*"))


def test_what_tensorrt_lacks_is_named(tmp_path: Path, cache: Path) -> None:
    relu(tmp_path / "net.onnx", "Frobnicate", "elsewhere")
    project = Project(tmp_path, plan_spec(profiles=PROFILE))
    assert "operator Frobnicate (node 'odd'), which it lacks" in project.refused()
    relu(tmp_path / "net.onnx")
    project.write(plan_spec(profiles=PROFILE, compute_capabilities="[9.0]"))
    assert "builds for SM" in project.refused()
    project.write(plan_spec(profiles=PROFILE, version_compatible="true"))
    assert "libnvinfer_lean" in project.refused()


def test_no_gpu_and_none_named(tmp_path: Path, cache: Path) -> None:
    identity(tmp_path / "net.onnx")
    words = Project(tmp_path, spec("net.onnx", backend="tensorrt")).refused(code=2)
    assert "there is no GPU here to build a plan for" in words


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("plans")
    identity(folder / "net.onnx", ("batch", 3, 8, 8))
    project = Project(folder, SPEC + "  single: {source: {model: net}, backend: tensorrt, max_batch_size: 8,\n"
                      "    export: {compute_capabilities: [8.6]}}\n")  # fmt: skip
    assert project.run("build-repo", "spec.yaml").exit_code == 0
    return folder / "model_repository"


def as_tensorrt(repository: Path, target: Path, version: str, **options: Any) -> Path:
    """The single plan in a repository of its own, as if TensorRT itself had built it."""
    folder = target / "single/1"
    folder.mkdir(parents=True)
    (folder / "model.plan").write_bytes((repository / "single/1/model.plan").read_bytes())
    record = json.loads(provenance.beside(repository / "single/1/model.plan").read_text())
    record["tools"] = {"tensorrt": version}
    record["options"].update(options)
    provenance.beside(folder / "model.plan").write_text(json.dumps(record))
    return target


def unfit(repository: Path, *serving: Any) -> str:
    with pytest.raises(ExportFailed) as caught:
        fitness.check(repository, Serving(*serving))
    return str(caught.value)


def test_plans_for_another_gpu_are_refused_before_a_server_starts(repository: Path, tmp_path: Path) -> None:
    fitness.check(repository, Serving(None, ()))
    words = unfit(repository, None, ("12.0",))
    assert "single/1/model.plan: it was built for compute capability 8.6, the GPUs here have 12.0" in words
    assert "plan/1" not in words
    words = unfit(repository, None, ("9.0",))
    assert "model_sm89.plan: it was built for compute capability 8.9, the GPUs here have 9.0" in words
    ampere = as_tensorrt(repository, tmp_path, "10.9.0", hardware_compatibility_level="AMPERE_PLUS")
    fitness.check(ampere, Serving("10.9.0", ("9.0",)))
    assert "8.6" in unfit(ampere, "10.9.0", ("7.5",))


def test_plans_of_another_tensorrt_are_refused(repository: Path, tmp_path: Path) -> None:
    assert "built by TensorRT for RTX" in unfit(repository, "10.9.0", ("8.6",))
    exact = as_tensorrt(repository, tmp_path / "exact", "10.9.0.34")
    fitness.check(exact, Serving("10.9.0", ("8.6",)))
    assert "it was built by TensorRT 10.9.0.34, the server has 10.8.0" in unfit(exact, "10.8.0", ("8.6",))
    compatible = as_tensorrt(repository, tmp_path / "compatible", "10.9.0", version_compatible=True)
    fitness.check(compatible, Serving("10.12.0", ("8.6",)))
    for other in ("10.8.0", "11.0.0"):
        assert "built by TensorRT 10.9.0" in unfit(compatible, other, ("8.6",))


def test_a_plan_that_was_swapped_is_refused(repository: Path, tmp_path: Path) -> None:
    swapped = as_tensorrt(repository, tmp_path, "10.9.0")
    (swapped / "single/1/model.plan").write_bytes(b"another")
    assert "is not the plan that its record describes" in unfit(swapped, None, ())
    # And so does `up`, before it starts anything.
    result = Project(tmp_path, "").run("up", str(swapped))
    assert result.exit_code == 4
    assert "is not the plan that its record describes" in result.stderr
    assert not (tmp_path / ".tritonkit").exists()


def test_types_hold_against_tensorrt_itself(tmp_path: Path) -> None:
    """Stubs are made from the module that is installed, and the code that uses it is checked against them."""
    scripts = Path(sys.executable).parent
    made = subprocess.run(
        [scripts / "stubgen", "-q", "-p", "tensorrt_rtx_bindings", "-o", tmp_path],
        env={**os.environ, "PYTHONPATH": str(loader(tmp_path))},
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    stub = tmp_path / "tensorrt_rtx_bindings/tensorrt_rtx.pyi"
    assert stub.is_file(), made.stderr
    mend(stub)
    config = tmp_path / "mypy.ini"
    config.write_text(
        "[mypy]\nstrict = true\nplugins = pydantic.mypy\nfollow_imports = silent\nignore_missing_imports = true\n"
        "disallow_subclassing_any = false\nuntyped_calls_exclude = tensorrt_rtx_bindings\n"
        "[mypy-tensorrt_rtx_bindings.*]\nignore_errors = true\n"
        "[mypy-torch.*,numpy.*,onnx.*,onnxruntime.*,google.*]\nfollow_imports = skip\n"
    )
    modules = [str(ROOT / f"tritonkit/artifacts/tensorrt_{name}.py") for name in ("build", "runner", "proof")]
    argv = [str(scripts / "mypy"), "--config-file", str(config), "--cache-dir", str(tmp_path / "cache"), *modules]
    checked = subprocess.run(
        argv, cwd=ROOT, env={**os.environ, "MYPYPATH": str(tmp_path)}, capture_output=True, text=True, check=False
    )
    assert checked.returncode == 0, checked.stdout


def loader(folder: Path) -> Path:
    """A folder whose sitecustomize loads TensorRT's libraries, without which its bindings cannot be imported."""
    (folder / "sitecustomize.py").write_text("import tensorrt_rtx_libs\n")
    return folder


def mend(stub: Path) -> None:
    """Loosen the few signatures that TensorRT documents in a way that is no Python."""
    for _ in range(20):
        try:
            ast.parse(stub.read_text())
            return
        except SyntaxError as error:
            number = (error.lineno or 1) - 1
            lines = stub.read_text().splitlines()
            line = lines[number]
            lines[number] = f"{line.partition('(')[0]}(self, *args, **kwargs): ..."
            stub.write_text("\n".join(lines))
