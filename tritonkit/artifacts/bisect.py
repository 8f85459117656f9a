"""Where an ONNX file begins to compute something else than its torch module.

The module runs as it is, and every tensor that it computes on the way is kept; then every node of the file is asked for
its output. A node agrees where its output is one of those tensors. Exporters split and fuse operators, so a node that
finds no counterpart is at fault only if nothing after it finds one either.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from tritonkit.artifacts import onnx_runner
from tritonkit.artifacts.parity import measure
from tritonkit.artifacts.questions import Array, Question
from tritonkit.artifacts.recipes import Tolerances
from tritonkit.artifacts.torch_module import Subject, to_torch


@dataclass(frozen=True)
class Departure:
    """The first node that computes something else.

    Attributes:
        question: the question that shows it.
        node: the node's name.
        operator: its operator.
        output: its output's name.
        scope: where in the module it comes from, as far as the exporter says.
        relative: how far the nearest of the module's tensors is, relative to it; infinite if none has this shape.
        after: the nodes before it that still agree, and that it reads.
    """

    question: str
    node: str
    operator: str
    output: str
    scope: str
    relative: float
    after: tuple[str, ...]


class _Recorder(TorchDispatchMode):
    """Keeps every floating tensor that is computed, by shape."""

    def __init__(self) -> None:
        super().__init__()
        self.by_shape: dict[tuple[int, ...], list[Array]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        answer = func(*args, **(kwargs or {}))
        for value in answer if isinstance(answer, tuple | list) else (answer,):
            if isinstance(value, torch.Tensor) and value.is_floating_point():
                array = value.detach().float().cpu().numpy().copy()
                self.by_shape.setdefault(array.shape, []).append(array)
        return answer


def first_departure(subject: Subject, file: Path, limits: Tolerances) -> Departure | None:
    """The first node of a file whose output is none of the module's tensors; None where all agree to the end.

    Raises:
        ExportFailed: the file cannot be loaded.
    """
    model = onnx.load(str(file), load_external_data=False)
    nodes = list(model.graph.node)
    session = _session_with_all_outputs(model, file)
    for question in subject.asked:
        recorder = _Recorder()
        with torch.no_grad(), recorder:
            subject.reference(*to_torch(subject.inputs, question.tensors))
        found = onnx_runner.run(session, question.tensors)
        departure = _first(nodes, found, recorder.by_shape, limits, question)
        if departure is not None:
            return departure
    return None


def _session_with_all_outputs(model: Any, file: Path) -> Any:
    known = {value.name for value in model.graph.output}
    for node in model.graph.node:
        # Untyped: onnxruntime finds the types itself.
        model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in node.output if name and name not in known)
    exposed = file.with_name("exposed.onnx")
    onnx.save(model, str(exposed))
    return onnx_runner.session(exposed)


def _first(
    nodes: Sequence[Any],
    found: Mapping[str, Array],
    expected: Mapping[tuple[int, ...], list[Array]],
    limits: Tolerances,
    question: Question,
) -> Departure | None:
    errors: dict[str, float] = {}
    for node in nodes:
        for name in node.output:
            value = found.get(name)
            # Whole numbers are mostly arithmetic on shapes, which the module does not do in tensors.
            if value is not None and np.issubdtype(value.dtype, np.floating):
                errors[name] = _nearest(value, expected.get(value.shape, ()))
    agrees = {name for name, error in errors.items() if error <= (limits.relative or 0.0)}
    leads_to_agreement: set[str] = set()
    for node in reversed(nodes):
        if any(name in agrees or name in leads_to_agreement for name in node.output):
            leads_to_agreement.update(node.input)
    for node in nodes:
        for name in node.output:
            if name in errors and name not in agrees and name not in leads_to_agreement:
                before = tuple(read for read in node.input if read in agrees)
                properties = {item.key: item.value for item in node.metadata_props}
                scope = properties.get("namespace", "")
                return Departure(question.label, node.name, node.op_type, name, scope, errors[name], before)
    return None


def _nearest(value: Array, candidates: Sequence[Array]) -> float:
    return min((measure(candidate, value)[1] for candidate in candidates), default=float("inf"))
