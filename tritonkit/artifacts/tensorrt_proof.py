"""Whether a plan computes what its ONNX file computes; it takes the GPU that it was built for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tritonkit.artifacts import onnx_runner
from tritonkit.artifacts.onnx_file import read_signature
from tritonkit.artifacts.parity import Parity, compare, tolerances
from tritonkit.artifacts.questions import questions
from tritonkit.artifacts.recipes import PlanRecipe
from tritonkit.artifacts.tensorrt_build import Built
from tritonkit.errors import ExportFailed
from tritonkit.tools import nvidia_smi


def prove(
    recipe: PlanRecipe, onnx: Path, built: Built, capability: str, report: Callable[[str, float], None]
) -> tuple[Parity | None, str]:
    """The proof, or why there can be none here.

    Raises:
        ExportFailed: the plan takes other inputs than the ONNX file, or computes something else.
    """
    known = read_signature(onnx)
    _check_bindings(built, {tensor.name: tensor.data_type for tensor in (*known.inputs, *known.outputs)})
    if capability not in nvidia_smi.compute_capabilities():
        return None, f"there is no GPU of compute capability {capability} here to run it on"
    from tritonkit.artifacts import tensorrt_runner

    report("proving", 0.9)
    answering, against = tensorrt_runner.answering(built.file, built.inputs)
    source, _ = onnx_runner.answering(onnx, "CPUExecutionProvider")
    limits = tolerances(recipe.precision, recipe.tolerances)
    parity = compare(source, answering, questions(built.inputs, recipe.asking), limits, against)
    parity.check()
    return parity, ""


def _check_bindings(built: Built, known: dict[str, str]) -> None:
    found = {tensor.name: tensor.data_type for tensor in (*built.inputs, *built.outputs)}
    if found != known:
        raise ExportFailed(f"TensorRT's inputs and outputs are {found}, those of the ONNX file {known}")
