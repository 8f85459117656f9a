"""The ``onnxruntime`` backend for a tritonserver that has no native one.

It runs inside tritonserver's Python stub, one process an instance, and takes the same configuration as the
native backend: ``default_model_filename``, ``instance_group``, the parameters ``intra_op_thread_count``,
``inter_op_thread_count``, ``execution_mode`` and those of the CUDA provider, ``optimization.graph.level``, and
the execution accelerators ``cuda``, ``tensorrt`` and ``openvino``, where the installed onnxruntime has them. The
parameters ``batch_buckets`` and ``own_process`` are its own. Where the native library is installed, Triton takes
that one and this file is not read.

The C files beside this one are a library that stands before it: instances on the CPU that ask for nothing special
run in that, inside tritonserver, and all others here. What both have to do alike, a test compares.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import triton_python_backend_utils as pb_utils

# The copy of the shared modules beside this file goes before an installed one, which may be of another version.
sys.path.insert(0, str(Path(__file__).parent))

from tritonkit.backends.batching import configuration
from tritonkit.backends.batching.batcher import Batcher
from tritonkit.backends.batching.configuration import Model
from tritonkit.backends.batching.padding import harm
from tritonkit.backends.engines.onnx_sessions import CUDA, CpuEngine, CudaEngine, Provider

DEFAULT_FILENAME = "model.onnx"
CUDA_PARAMETERS = frozenset(
    {"cudnn_conv_algo_search", "gpu_mem_limit", "arena_extend_strategy", "do_copy_in_default_stream"}
)
PARAMETERS = CUDA_PARAMETERS | {"intra_op_thread_count", "inter_op_thread_count", "execution_mode", "own_process"}
# Why that library is not here, where it is not.
NO_LIBRARY = Path(__file__).with_name("own_process.txt")
# The native backend's numbers for what onnxruntime names.
CUDA_WORDS = {
    "cudnn_conv_algo_search": ("EXHAUSTIVE", "HEURISTIC", "DEFAULT"),
    "arena_extend_strategy": ("kNextPowerOfTwo", "kSameAsRequested"),
}
TENSORRT_NAMES = {
    "max_workspace_size_bytes": "trt_max_workspace_size",
    "int8_calibration_table_name": "trt_int8_calibration_table_name",
    "int8_use_native_calibration_table": "trt_int8_use_native_calibration_table",
}
PRECISIONS = {"FP32": {}, "FP16": {"trt_fp16_enable": "1"}, "INT8": {"trt_int8_enable": "1"}}
TRITON_TYPES = {
    "tensor(bool)": "TYPE_BOOL",
    "tensor(uint8)": "TYPE_UINT8",
    "tensor(uint16)": "TYPE_UINT16",
    "tensor(uint32)": "TYPE_UINT32",
    "tensor(uint64)": "TYPE_UINT64",
    "tensor(int8)": "TYPE_INT8",
    "tensor(int16)": "TYPE_INT16",
    "tensor(int32)": "TYPE_INT32",
    "tensor(int64)": "TYPE_INT64",
    "tensor(float16)": "TYPE_FP16",
    "tensor(float)": "TYPE_FP32",
    "tensor(double)": "TYPE_FP64",
    "tensor(string)": "TYPE_STRING",
}


class TritonPythonModel:
    """One instance of an ONNX model."""

    @staticmethod
    def auto_complete_config(auto_complete_model_config: Any) -> Any:
        """Fill in the inputs and outputs that the configuration leaves out, from the model file."""
        config = auto_complete_model_config.as_dict()
        if all(configuration.complete(config[side]) for side in ("input", "output")):
            return auto_complete_model_config
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        path = configuration.model_file(Path(pb_utils.get_model_dir()), config, DEFAULT_FILENAME)
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        tensors = [*session.get_inputs(), *session.get_outputs()]
        batches = config["max_batch_size"] > 0
        if not batches and not config["input"] and not config["output"]:
            batches = all(tensor.shape and not isinstance(tensor.shape[0], int) for tensor in tensors)
            if batches:
                auto_complete_model_config.set_max_batch_size(configuration.DEFAULT_MAX_BATCH_SIZE)
        for side, add, known in (
            ("input", auto_complete_model_config.add_input, session.get_inputs()),
            ("output", auto_complete_model_config.add_output, session.get_outputs()),
        ):
            stated = {entry["name"] for entry in config[side] if configuration.complete([entry])}
            for tensor in known:
                if tensor.name not in stated:
                    dims = _dims(tensor)[1:] if batches else _dims(tensor)
                    add({"name": tensor.name, "data_type": _triton_type(tensor), "dims": dims})
        return auto_complete_model_config

    def initialize(self, args: Mapping[str, str]) -> None:
        """Load the model for one instance; every fault of the configuration is an error here."""
        model = configuration.read(args)
        path = configuration.model_file(model.folder, model.config, DEFAULT_FILENAME)
        providers = _providers(model)
        for words in configuration.warn_unused(model.config, PARAMETERS):
            pb_utils.Logger.log_warn(words)
        if model.device is None and not configuration.switch(model.config, "own_process") and NO_LIBRARY.is_file():
            _say(model, f"runs in a process of its own: {NO_LIBRARY.read_text(encoding='ascii')}")
        sizes = configuration.batch_sizes(model)
        self.engine: CpuEngine | CudaEngine
        if model.device is None:
            self.engine = CpuEngine(path, _options(model), providers)
        else:
            try:
                self.engine = CudaEngine(
                    path, lambda: _options(model), model, providers, lambda words: _say(model, words)
                )
            except RuntimeError as error:
                raise RuntimeError(_no_cuda(str(error))) from error
        _check(model, self.engine.session)
        harmed = harm(model, self.engine, sizes)
        if harmed:
            _say(model, f"batches are not padded: {harmed}")
            # Exact sizes can be prepared too, while they are few.
            sizes = tuple(range(1, model.max_batch_size + 1)) if model.max_batch_size <= 16 else ()
        if isinstance(self.engine, CudaEngine):
            self.engine.prepare(sizes if model.max_batch_size else (0,))
        self.batcher = Batcher(model, self.engine, sizes)

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Answer every request, in order."""
        return self.batcher.execute(requests)

    def finalize(self) -> None:
        """Free the session while onnxruntime's own state is still alive."""
        del self.batcher, self.engine


def _say(model: Model, words: str) -> None:
    pb_utils.Logger.log_warn(f"{model.name}: {words}")


def _triton_type(tensor: Any) -> str:
    if tensor.type not in TRITON_TYPES:
        raise ValueError(f"{tensor.name}: Triton's Python stub cannot carry the type {tensor.type}")
    return TRITON_TYPES[tensor.type]


def _dims(tensor: Any) -> list[int]:
    return [size if isinstance(size, int) else -1 for size in tensor.shape]


def _no_cuda(why: str) -> str:
    return (
        f"the instance is KIND_GPU, but {why}: install onnxruntime-gpu (and not onnxruntime beside it), "
        "or ask for KIND_CPU"
    )


def _providers(model: Model) -> list[Provider]:
    """The providers for this instance, the most wanted first; the CPU's own is not named."""
    import onnxruntime

    has = onnxruntime.get_available_providers()
    asked = configuration.accelerators(model.config)
    on_gpu = model.device is not None
    providers: list[Provider] = []
    for name, parameters in asked.items():
        wanted = {"cuda": CUDA, "tensorrt": "TensorrtExecutionProvider", "openvino": "OpenVINOExecutionProvider"}.get(
            name
        )
        if wanted is None or wanted not in has:
            raise ValueError(
                f"execution accelerators are not supported here: {name} (this onnxruntime has: {', '.join(has)})"
            )
        if name == "openvino" and not on_gpu:
            providers.append((wanted, dict(parameters)))
        elif name == "tensorrt" and on_gpu:
            providers.append((wanted, _tensorrt(parameters, model)))
    if on_gpu:
        if CUDA not in has:
            raise RuntimeError(_no_cuda("this onnxruntime has no CUDA provider"))
        providers.append((CUDA, _cuda(model, asked.get("cuda", {}))))
    return providers


def _cuda(model: Model, parameters: Mapping[str, str]) -> dict[str, str]:
    options = {"device_id": str(model.device)}
    for name in sorted(CUDA_PARAMETERS & set(model.config.get("parameters", {}))):
        number = configuration.whole_number(model.config, name)
        words = CUDA_WORDS.get(name)
        if words and number >= len(words):
            raise ValueError(f"parameter {name}: expected a whole number from 0 to {len(words) - 1}, got {number}")
        options[name] = words[number] if words else str(number)
    return {**options, **parameters}


def _tensorrt(parameters: Mapping[str, str], model: Model) -> dict[str, str]:
    options = {"device_id": str(model.device)}
    for name, value in parameters.items():
        if name == "precision_mode":
            if value not in PRECISIONS:
                raise ValueError(f"precision_mode: expected one of {', '.join(PRECISIONS)}, got {value!r}")
            options.update(PRECISIONS[value])
        else:
            options[TENSORRT_NAMES.get(name, name)] = value
    return options


def _options(model: Model) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = configuration.whole_number(model.config, "intra_op_thread_count")
    options.inter_op_num_threads = configuration.whole_number(model.config, "inter_op_thread_count")
    if configuration.whole_number(model.config, "execution_mode"):
        options.execution_mode = onnxruntime.ExecutionMode.ORT_PARALLEL
    levels = onnxruntime.GraphOptimizationLevel
    level = model.config.get("optimization", {}).get("graph", {}).get("level", 0)
    options.graph_optimization_level = {
        -1: levels.ORT_ENABLE_BASIC,
        1: levels.ORT_ENABLE_EXTENDED,
        2: levels.ORT_DISABLE_ALL,
    }.get(int(level), levels.ORT_ENABLE_ALL)
    if model.device is None:
        # Threads that spin between operators take the cores from the server and from other instances.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        if options.intra_op_num_threads == 0:
            options.intra_op_num_threads = configuration.cpu_threads(model)
    return options


def _check(model: Model, session: Any) -> None:
    optional = {tensor.name: tensor for tensor in session.get_overridable_initializers()}
    inputs = {tensor.name: tensor for tensor in session.get_inputs()}
    outputs = {tensor.name: tensor for tensor in session.get_outputs()}
    for side, stated, known in (("input", model.inputs, inputs | optional), ("output", model.outputs, outputs)):
        for tensor in stated:
            if tensor.name not in known:
                raise ValueError(f"the model has no {side} {tensor.name!r}; it has: {', '.join(sorted(known))}")
            _check_tensor(tensor, known[tensor.name], model.max_batch_size > 0)
    missing = sorted(set(inputs) - {tensor.name for tensor in model.inputs})
    if missing:
        raise ValueError(f"the model needs inputs that the configuration lacks: {', '.join(missing)}")


def _check_tensor(stated: configuration.Tensor, tensor: Any, batches: bool) -> None:
    kind = _triton_type(tensor)
    if stated.type != kind:
        raise ValueError(f"{stated.name}: the configuration says {stated.type}, the model has {kind}")
    wanted = [-1, *stated.dims] if batches else list(stated.dims)
    has = _dims(tensor)
    if batches and has and has[0] > 0:
        raise ValueError(
            f"{stated.name}: the model's first dimension is fixed at {has[0]}, so it cannot batch: "
            "export it with a dynamic batch dimension, or set max_batch_size: 0"
        )
    # A model whose rank onnxruntime does not know has no shape at all.
    if tensor.shape and (
        len(has) != len(wanted) or any(a != b and -1 not in {a, b} for a, b in zip(has, wanted, strict=True))
    ):
        raise ValueError(f"{stated.name}: the configuration says {wanted}, the model has {has}")
