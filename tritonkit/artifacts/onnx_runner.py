"""Running an ONNX file, to hear what it answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tritonkit.artifacts.parity import Answering
from tritonkit.artifacts.questions import Array
from tritonkit.errors import ExportFailed, ToolMissing


def providers() -> list[str]:
    """What onnxruntime can compute on here, the fastest first."""
    known = _onnxruntime().get_available_providers()
    return [name for name in ("CUDAExecutionProvider", "CPUExecutionProvider") if name in known]


def _onnxruntime() -> Any:
    try:
        import onnxruntime
    except ModuleNotFoundError:
        hint = "pip install 'tritonkit[cpu]', or 'tritonkit[gpu]' where there is a GPU"
        raise ToolMissing("onnxruntime is not installed; it proves what was exported", hint=hint) from None
    return onnxruntime


# TensorFloat-32, CUDA's default, rounds to ten bits: a proof computes in the precision that it is about.
_PROVIDER_OPTIONS = {"CUDAExecutionProvider": {"use_tf32": "0"}}


def session(model: Path | bytes, provider: str | None = None) -> Any:
    """A session on one provider, or on the fastest one that works here.

    Raises:
        ExportFailed: the model cannot be loaded, or the provider that was asked for does not work.
    """
    runtime = _onnxruntime()
    options = runtime.SessionOptions()
    options.log_severity_level = 4
    last = ""
    for name in [provider] if provider else providers():
        try:
            made = runtime.InferenceSession(
                model if isinstance(model, bytes) else str(model),
                sess_options=options,
                providers=[(name, _PROVIDER_OPTIONS.get(name, {}))],
            )
        except Exception as error:
            last = " ".join(str(error).split())
            continue
        # A provider that cannot be loaded only warns, and computes on the CPU.
        if made.get_providers()[0] == name:
            return made
        last = f"{name} does not work here"
    raise ExportFailed(f"onnxruntime {runtime.__version__} cannot load the model: {last}")


def answering(file: Path, provider: str | None = None) -> tuple[Answering, str]:
    """What a file answers, and by what it was run.

    Raises:
        ExportFailed: it cannot be loaded.
    """
    try:
        made = session(file, provider)
    except ExportFailed:
        if provider is not None or not _computes_in_bf16(file):
            raise
        return _by_definition(file)
    against = f"onnxruntime {_onnxruntime().__version__} on {made.get_providers()[0]}"

    def answer(tensors: Mapping[str, Array]) -> Mapping[str, Array]:
        return run(made, tensors)

    return answer, against


def run(made: Any, tensors: Mapping[str, Array], outputs: Sequence[str] | None = None) -> dict[str, Array]:
    """The outputs of a session, by name."""
    names = list(outputs or [output.name for output in made.get_outputs()])
    known = {value.name for value in made.get_inputs()}
    values = made.run(names, {name: value for name, value in tensors.items() if name in known})
    return {name: np.asarray(value) for name, value in zip(names, values, strict=True)}


def _computes_in_bf16(file: Path) -> bool:
    import onnx

    graph = onnx.load(str(file), load_external_data=False).graph
    return any(value.data_type == onnx.TensorProto.BFLOAT16 for value in graph.initializer)


def _by_definition(file: Path) -> tuple[Answering, str]:
    """As ONNX itself defines its operators: slow, but the only way to compute in BF16 on a CPU."""
    import onnx
    from onnx.reference import ReferenceEvaluator

    evaluator = ReferenceEvaluator(str(file))

    def answer(tensors: Mapping[str, Array]) -> Mapping[str, Array]:
        values = evaluator.run(None, dict(tensors))
        return {name: np.asarray(value) for name, value in zip(evaluator.output_names, values, strict=True)}

    return answer, f"onnx {onnx.__version__} by definition, on the CPU"
