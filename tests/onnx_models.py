"""Small ONNX models that tests make for themselves."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnx
from onnx import TensorProto, helper

Dims = Sequence[int | str] | None


def identity(
    path: Path,
    dims: Dims = ("batch", 1, 8, 8),
    *,
    data_type: int = TensorProto.FLOAT,
    names: tuple[str, str] = ("input", "output"),
    initializer_as_input: bool = False,
) -> Path:
    """Write a model that returns its input; the dims have the batch first."""
    source, target = names
    inputs = [helper.make_tensor_value_info(source, data_type, dims)]
    initializers: list[Any] = []
    if initializer_as_input:
        inputs.append(helper.make_tensor_value_info("weight", TensorProto.FLOAT, [1]))
        initializers.append(helper.make_tensor("weight", TensorProto.FLOAT, [1], [2.0]))
    outputs = [helper.make_tensor_value_info(target, data_type, dims)]
    graph = helper.make_graph(
        [helper.make_node("Identity", [source], [target])], "identity", inputs, outputs, initializers
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(path))
    return path
