"""The model of ``backends_cpu.py``: so small that what stands around it shows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

SHAPE = (3, 224, 224)


def network(path: Path, kind: str) -> Path:
    """A small CNN: two convolutions, a mean, a layer of ten."""
    random = np.random.default_rng(0)
    weights = {
        "w1": random.normal(size=(16, 3, 5, 5)).astype(np.float32) / 100,
        "w2": random.normal(size=(32, 16, 3, 3)).astype(np.float32) / 10,
        "w3": random.normal(size=(32, 10)).astype(np.float32),
    }
    nodes = [
        helper.make_node("Cast", ["input"], ["x"], to=TensorProto.FLOAT),
        helper.make_node("Conv", ["x", "w1"], ["a"], strides=[4, 4]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Conv", ["b", "w2"], ["c"], strides=[2, 2]),
        helper.make_node("Relu", ["c"], ["d"]),
        helper.make_node("GlobalAveragePool", ["d"], ["e"]),
        helper.make_node("Flatten", ["e"], ["f"]),
        helper.make_node("MatMul", ["f", "w3"], ["output"]),
    ]
    types = {"FP32": TensorProto.FLOAT, "UINT8": TensorProto.UINT8}
    graph = helper.make_graph(
        nodes,
        "cnn",
        [helper.make_tensor_value_info("input", types[kind], ["batch", *SHAPE])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, ["batch", 10])],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(path))
    return path
