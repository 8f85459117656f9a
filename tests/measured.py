"""The models that the tests of clients and benchmarks ask, and where the tests keep to short measurements."""

from __future__ import annotations

import io
from pathlib import Path

from PIL import Image
from serving import python_model

from tritonkit.tools.perf_analyzer import PerfAnalyzer, install

ADD = """
import numpy as np
import triton_python_backend_utils as pb
class TritonPythonModel:
    def execute(self, requests):
        arrays = [pb.get_input_tensor_by_name(request, "X").as_numpy() for request in requests]
        return [pb.InferenceResponse([pb.Tensor("Y", array + np.float32(1))]) for array in arrays]
"""
ADD_CONFIG = """
backend: "python"
max_batch_size: 8
dynamic_batching { max_queue_delay_microseconds: 2000 }
input [{ name: "X" data_type: TYPE_FP32 dims: [4] }]
output [{ name: "Y" data_type: TYPE_FP32 dims: [4] label_filename: "labels.txt" }]
instance_group [{ count: 1 kind: KIND_CPU }]
"""
TWICE_CONFIG = """
platform: "ensemble"
max_batch_size: 8
input [{ name: "X" data_type: TYPE_FP32 dims: [4] }]
output [{ name: "Z" data_type: TYPE_FP32 dims: [4] }]
ensemble_scheduling { step [
  { model_name: "add" model_version: -1 input_map { key: "X" value: "X" } output_map { key: "Y" value: "sum" } },
  { model_name: "add" model_version: -1 input_map { key: "X" value: "sum" } output_map { key: "Y" value: "Z" } }
] }
"""
NESTED_CONFIG = """
platform: "ensemble"
max_batch_size: 8
input [{ name: "X" data_type: TYPE_FP32 dims: [4] }]
output [{ name: "Z" data_type: TYPE_FP32 dims: [4] }]
ensemble_scheduling { step [
  { model_name: "twice" model_version: -1 input_map { key: "X" value: "X" } output_map { key: "Z" value: "Z" } }
] }
"""
# Gives back what it gets, of any length.
OPEN = """
import triton_python_backend_utils as pb
class TritonPythonModel:
    def execute(self, requests):
        arrays = [pb.get_input_tensor_by_name(request, "X").as_numpy() for request in requests]
        return [pb.InferenceResponse([pb.Tensor("Y", array)]) for array in arrays]
"""
OPEN_CONFIG = """
backend: "python"
max_batch_size: 8
input [{ name: "X" data_type: TYPE_FP32 dims: [-1] }]
output [{ name: "Y" data_type: TYPE_FP32 dims: [-1] }]
instance_group [{ count: 1 kind: KIND_CPU }]
"""
IMAGE = """
import io
import numpy as np
import triton_python_backend_utils as pb
from PIL import Image
class TritonPythonModel:
    def execute(self, requests):
        return [self.answer(pb.get_input_tensor_by_name(request, "IMAGE").as_numpy()) for request in requests]
    def answer(self, files):
        try:
            sizes = [Image.open(io.BytesIO(file)).size for file in files.reshape(-1)]
        except Exception as error:
            return pb.InferenceResponse(error=pb.TritonError("not an image"))
        return pb.InferenceResponse([pb.Tensor("SIZE", np.array(sizes, dtype=np.int32))])
"""
IMAGE_CONFIG = """
backend: "python"
max_batch_size: 8
input [{ name: "IMAGE" data_type: TYPE_STRING dims: [1] }]
output [{ name: "SIZE" data_type: TYPE_INT32 dims: [2] }]
instance_group [{ count: 1 kind: KIND_CPU }]
"""
# Says what arrived, type by type; without a batch dimension.
TYPES = """
import numpy as np
import triton_python_backend_utils as pb
class TritonPythonModel:
    def execute(self, requests):
        return [pb.InferenceResponse([self.said(request)]) for request in requests]
    def said(self, request):
        arrays = {name: pb.get_input_tensor_by_name(request, name) for name in ("B", "U8", "I64", "F16", "S")}
        lines = [f"{name} {array.as_numpy().dtype} {array.as_numpy().tolist()}" for name, array in arrays.items()]
        return pb.Tensor("SAID", np.array([line.encode() for line in lines], dtype=object))
"""
TYPES_CONFIG = """
backend: "python"
max_batch_size: 0
input [
  { name: "B" data_type: TYPE_BOOL dims: [2] },
  { name: "U8" data_type: TYPE_UINT8 dims: [2] },
  { name: "I64" data_type: TYPE_INT64 dims: [-1] },
  { name: "F16" data_type: TYPE_FP16 dims: [2, 2] },
  { name: "S" data_type: TYPE_STRING dims: [2] }
]
output [{ name: "SAID" data_type: TYPE_STRING dims: [5] }]
instance_group [{ count: 1 kind: KIND_CPU }]
"""
# Negative numbers make it misbehave; -1: every 10th in a row fails; -2: it takes longer every time; -3: for ever.
MOODY = """
import time
import triton_python_backend_utils as pb
class TritonPythonModel:
    def initialize(self, args):
        self.count = self.row = self.slower = 0
        self.last = time.monotonic()
    def execute(self, requests):
        # A row is what comes without a pause: the few requests that try a model are none.
        pause, self.last = time.monotonic() - self.last, time.monotonic()
        self.row = 0 if pause > 0.2 else self.row
        return [self.answer(pb.get_input_tensor_by_name(request, "X")) for request in requests]
    def answer(self, x):
        self.count += 1
        mood = int(x.as_numpy()[0])
        if mood == -1:
            self.row += 1
            if self.row % 10 == 0:
                return pb.InferenceResponse(error=pb.TritonError("the 10th request is refused"))
        if mood == -2:
            self.slower += 1
            time.sleep(0.0002 * self.slower)
        if mood == -3 and self.count > 5:
            time.sleep(3600)
        if mood == -4:
            time.sleep(0.02)
        if mood == -5:
            time.sleep(0.05)
        return pb.InferenceResponse([pb.Tensor("Y", x.as_numpy())])
"""
MOODY_CONFIG = """
backend: "python"
max_batch_size: 0
input [{ name: "X" data_type: TYPE_FP32 dims: [1] }]
output [{ name: "Y" data_type: TYPE_FP32 dims: [1] }]
instance_group [{ count: 1 kind: KIND_CPU }]
"""


def repository(folder: Path) -> Path:
    """A repository of all of them; the folder."""
    python_model(folder, "add", ADD, ADD_CONFIG)
    (folder / "add" / "labels.txt").write_text("zero\none\ntwo\nthree\n")
    python_model(folder, "image", IMAGE, IMAGE_CONFIG)
    python_model(folder, "types", TYPES, TYPES_CONFIG)
    python_model(folder, "moody", MOODY, MOODY_CONFIG)
    python_model(folder, "open", OPEN, OPEN_CONFIG)
    for ensemble, config in (("twice", TWICE_CONFIG), ("nested", NESTED_CONFIG)):
        (folder / ensemble / "1").mkdir(parents=True)
        (folder / ensemble / "config.pbtxt").write_text(config)
    return folder


def png(path: Path, width: int, height: int) -> Path:
    """Write a PNG image; its path."""
    buffer = io.BytesIO()
    Image.new("L", (width, height), color=128).save(buffer, format="PNG")
    path.write_bytes(buffer.getvalue())
    return path


def analyzer() -> PerfAnalyzer:
    """The real perf_analyzer, installed where it is missing."""
    return install(lambda _said: None)
