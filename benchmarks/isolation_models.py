"""The models of ``isolation.py``, made on the spot with random weights, and their configurations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

SMALL, LARGE, BANDWIDTH = "small", "large", "bandwidth"
THROUGHPUT = ("mobilenet_a", "mobilenet_b", "resnet_a", "resnet_b")
_NETWORKS = {
    SMALL: "mobilenet_v2",
    LARGE: "resnet50",
    "mobilenet_a": "mobilenet_v2",
    "mobilenet_b": "mobilenet_v2",
    "resnet_a": "resnet50",
    "resnet_b": "resnet50",
}
_IMAGE, _TINY_IMAGE = 224, 32
# Each pass reads two tensors and writes one, of 256 MiB: what the SMs compute of them is nothing.
_ELEMENTS, _PASSES = 64 * 2**20, 16
_TINY_ELEMENTS, _TINY_PASSES = 2**16, 2
_OPSET = 17
CONFIG = """
backend: "onnxruntime"
max_batch_size: {largest}
input [{{ name: "{name}_in" data_type: TYPE_FP32 dims: [{dims}] }}]
output [{{ name: "{name}_out" data_type: TYPE_FP32 dims: [{classes}] }}]
instance_group [{{ count: 1 kind: KIND_AUTO }}]
parameters {{ key: "batch_buckets" value {{ string_value: "{buckets}" }} }}
{batching}
"""
_BATCHING = "dynamic_batching { max_queue_delay_microseconds: 0 }"


def make(repository: Path, *, tiny: bool) -> None:
    """Write the models; ``tiny`` ones are for a CPU. Tensors have names of their own: shared memory goes by them."""
    side = _TINY_IMAGE if tiny else _IMAGE
    classes = 8 if tiny else 1000
    for name, network in _NETWORKS.items():
        largest, buckets = {SMALL: (4, "1,2,4"), LARGE: (8, "8")}.get(name, (1, "1"))
        file = _place(
            repository, name, largest=largest, dims=f"3, {side}, {side}", classes=classes, buckets=buckets,
            batching=_BATCHING if name == SMALL else "",
        )  # fmt: skip
        if not file.exists():
            _tiny(file, name, side, classes) if tiny else _exported(file, name, network, side)
    file = _place(repository, BANDWIDTH, largest=1, dims="1", classes=1, buckets="1", batching="")
    if not file.exists():
        _passes(file, _TINY_ELEMENTS if tiny else _ELEMENTS, _TINY_PASSES if tiny else _PASSES)


def _place(repository: Path, name: str, **values: Any) -> Path:
    version = repository / name / "1"
    version.mkdir(parents=True, exist_ok=True)
    (version.parent / "config.pbtxt").write_text(CONFIG.format(name=name, **values))
    return version / "model.onnx"


def _exported(file: Path, name: str, network: str, side: int) -> None:
    import torch
    import torchvision

    torch.manual_seed(0)
    module = getattr(torchvision.models, network)(weights=None).eval()
    torch.onnx.export(
        module, (torch.randn(2, 3, side, side),), str(file), input_names=[f"{name}_in"], output_names=[f"{name}_out"],
        dynamic_axes={f"{name}_in": {0: "batch"}, f"{name}_out": {0: "batch"}}, opset_version=_OPSET, dynamo=False,
    )  # fmt: skip


def _tiny(file: Path, name: str, side: int, classes: int) -> None:
    import numpy as np
    from onnx import TensorProto, helper, numpy_helper

    weights = np.random.default_rng(0).normal(size=(classes, 3, 3, 3)).astype(np.float32)
    nodes = [
        helper.make_node("Conv", [f"{name}_in", "w"], ["maps"]),
        helper.make_node("GlobalAveragePool", ["maps"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], [f"{name}_out"]),
    ]
    image = helper.make_tensor_value_info(f"{name}_in", TensorProto.FLOAT, ["batch", 3, side, side])
    scores = helper.make_tensor_value_info(f"{name}_out", TensorProto.FLOAT, ["batch", classes])
    _save(file, helper.make_graph(nodes, name, [image], [scores], [numpy_helper.from_array(weights, "w")]))


def _passes(file: Path, elements: int, passes: int) -> None:
    """From one number to a tensor of that number, over which pass follows pass, to one number."""
    import numpy as np
    from onnx import TensorProto, helper, numpy_helper

    name = BANDWIDTH
    nodes = [helper.make_node("Expand", [f"{name}_in", "shape"], ["t0"])]
    nodes += [
        helper.make_node("Mul" if index % 2 else "Add", [f"t{index}", "t0"], [f"t{index + 1}"])
        for index in range(passes)
    ]
    nodes.append(helper.make_node("ReduceMax", [f"t{passes}"], [f"{name}_out"], axes=[1], keepdims=1))
    one = helper.make_tensor_value_info(f"{name}_in", TensorProto.FLOAT, ["batch", 1])
    out = helper.make_tensor_value_info(f"{name}_out", TensorProto.FLOAT, ["batch", 1])
    shape = numpy_helper.from_array(np.array([1, elements], np.int64), "shape")
    _save(file, helper.make_graph(nodes, name, [one], [out], [shape]))


def _save(file: Path, graph: Any) -> None:
    import onnx
    from onnx import helper

    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=9)
    onnx.checker.check_model(model)
    onnx.save(model, str(file))
