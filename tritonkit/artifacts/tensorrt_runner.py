"""Running a plan on the GPU that is here, to hear what it answers. Buffers are torch's."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from tritonkit.artifacts import tensorrt_module, torch_module
from tritonkit.artifacts.parity import Answering
from tritonkit.artifacts.questions import Array
from tritonkit.artifacts.signature import Tensor
from tritonkit.errors import ExportFailed

if TYPE_CHECKING:
    import tensorrt_rtx_bindings as trt
else:
    trt = tensorrt_module.load()

_KINDS = {
    "FLOAT": torch.float32,
    "HALF": torch.float16,
    "BF16": torch.bfloat16,
    "INT8": torch.int8,
    "INT32": torch.int32,
    "INT64": torch.int64,
    "UINT8": torch.uint8,
    "BOOL": torch.bool,
}


def answering(file: Path, inputs: tuple[Tensor, ...]) -> tuple[Answering, str]:
    """What a plan answers, and by what it was run.

    Raises:
        ExportFailed: TensorRT does not load it here.
    """
    runtime = trt.Runtime(trt.Logger(trt.Logger.Severity.ERROR))
    engine = runtime.deserialize_cuda_engine(file.read_bytes())
    if engine is None:
        raise ExportFailed(f"TensorRT {trt.__version__} does not load {file.name} on this GPU")
    context = engine.create_execution_context()
    names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
    outputs = [name for name in names if engine.get_tensor_mode(name) == trt.TensorIOMode.OUTPUT]

    def answer(tensors: Mapping[str, Array]) -> Mapping[str, Array]:
        values: dict[str, Any] = {}
        for tensor, value in zip(inputs, torch_module.to_torch(inputs, tensors), strict=True):
            values[tensor.name] = value.cuda().contiguous()
            if not context.set_input_shape(tensor.name, trt.Dims(value.shape)):
                raise ExportFailed(f"the plan refuses the shape {list(value.shape)} of '{tensor.name}'")
        for name in outputs:
            dims = context.get_tensor_shape(name)
            kind = _KINDS[engine.get_tensor_dtype(name).name]
            values[name] = torch.empty([int(dims[axis]) for axis in range(len(dims))], dtype=kind, device="cuda")
        for name, value in values.items():
            context.set_tensor_address(name, value.data_ptr())
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        if not context.execute_async_v3(stream.cuda_stream):
            raise ExportFailed("TensorRT could not run the plan")
        stream.synchronize()
        return {name: values[name].float().cpu().numpy() for name in outputs}

    return answer, f"TensorRT {trt.__version__} on {torch.cuda.get_device_name()}"
