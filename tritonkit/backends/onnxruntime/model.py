"""The ``onnxruntime`` backend for a tritonserver that has no native one.

It runs inside tritonserver's Python stub, one process an instance, and takes the same configuration as the
native backend: ``default_model_filename``, ``instance_group``, and the parameters
``intra_op_thread_count``, ``inter_op_thread_count`` and ``execution_mode``. Where the native library is
installed, Triton takes that one and this file is not read.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import triton_python_backend_utils as pb_utils

if int(np.__version__.split(".", maxsplit=1)[0]) >= 2:
    # Against numpy 2 the stub reads garbage and writes empty outputs, and still answers HTTP 200.
    raise ImportError(f"numpy {np.__version__} does not work in Triton's Python stub: install numpy < 2")

DEFAULT_FILENAME = "model.onnx"
# What Triton's own backends give a model that can batch and whose configuration does not say how far.
DEFAULT_MAX_BATCH_SIZE = 4
PARAMETERS = frozenset({"intra_op_thread_count", "inter_op_thread_count", "execution_mode"})
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


class Ask(NamedTuple):
    """One request, read: where it stands in the call, its inputs, the outputs it wants, its batch size."""

    position: int
    inputs: dict[str, Any]
    outputs: tuple[str, ...]
    batch: int


class TritonPythonModel:
    """One instance of an ONNX model."""

    @staticmethod
    def auto_complete_config(auto_complete_model_config: Any) -> Any:
        """Fill in the inputs and outputs that the configuration leaves out, from the model file."""
        config = auto_complete_model_config.as_dict()
        if all(_complete(config[side]) for side in ("input", "output")):
            return auto_complete_model_config
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        path = _model_file(Path(pb_utils.get_model_dir()), config)
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        tensors = [*session.get_inputs(), *session.get_outputs()]
        batches = config["max_batch_size"] > 0
        if not batches and not config["input"] and not config["output"]:
            batches = all(tensor.shape and not isinstance(tensor.shape[0], int) for tensor in tensors)
            if batches:
                auto_complete_model_config.set_max_batch_size(DEFAULT_MAX_BATCH_SIZE)
        for side, add, known in (
            ("input", auto_complete_model_config.add_input, session.get_inputs()),
            ("output", auto_complete_model_config.add_output, session.get_outputs()),
        ):
            stated = {entry["name"] for entry in config[side] if _complete([entry])}
            for tensor in known:
                if tensor.name not in stated:
                    dims = _dims(tensor)[1:] if batches else _dims(tensor)
                    add({"name": tensor.name, "data_type": _triton_type(tensor), "dims": dims})
        return auto_complete_model_config

    def initialize(self, args: Mapping[str, str]) -> None:
        """Load the model for one instance; every fault of the configuration is an error here."""
        import onnxruntime

        config = json.loads(args["model_config"])
        _refuse_unsupported(config)
        self.batches: bool = config["max_batch_size"] > 0
        self.types = {entry["name"]: entry["data_type"] for entry in [*config["input"], *config["output"]]}
        self.output_names = tuple(entry["name"] for entry in config["output"])
        self.required = tuple(entry["name"] for entry in config["input"] if not entry.get("optional", False))
        self.input_names = tuple(entry["name"] for entry in config["input"])
        path = _model_file(Path(args["model_repository"]) / args["model_version"], config)
        gpu = args["model_instance_kind"] == "GPU"
        providers: list[Any] = ["CPUExecutionProvider"]
        if gpu:
            if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
                raise RuntimeError(_no_cuda("this onnxruntime has no CUDA provider"))
            providers.insert(0, ("CUDAExecutionProvider", {"device_id": int(args["model_instance_device_id"])}))
        self.session = onnxruntime.InferenceSession(path, _options(config, gpu), providers=providers)
        # onnxruntime only warns when a provider does not load, and runs on the CPU.
        if gpu and "CUDAExecutionProvider" not in self.session.get_providers():
            raise RuntimeError(_no_cuda("its CUDA provider did not load"))
        self.session.disable_fallback()
        _check(config, self.session, self.batches)

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Answer every request, in order; requests of equal shapes run as one batch."""
        responses: list[Any] = [None] * len(requests)
        groups: dict[Any, list[Ask]] = {}
        for position, request in enumerate(requests):
            try:
                ask = self._read(position, request)
            except Exception as error:
                responses[position] = _failure(error)
                continue
            alone = position if not self.batches else None
            shapes = tuple((name, value.shape[1:]) for name, value in ask.inputs.items())
            groups.setdefault((alone, shapes), []).append(ask)
        for group in groups.values():
            self._answer(group, responses)
        return responses

    def finalize(self) -> None:
        """Free the session while onnxruntime's own state is still alive."""
        del self.session

    def _read(self, position: int, request: Any) -> Ask:
        inputs = {}
        for name in self.input_names:
            tensor = pb_utils.get_input_tensor_by_name(request, name)
            if tensor is not None:
                array = tensor.as_numpy()
                inputs[name] = _decoded(name, array) if self.types[name] == "TYPE_STRING" else array
        missing = [name for name in self.required if name not in inputs]
        if missing:
            raise ValueError(f"missing input: {', '.join(missing)}")
        sizes = {array.shape[0] if array.ndim else 0 for array in inputs.values()} if self.batches else {1}
        if len(sizes) != 1:
            raise ValueError(f"the inputs differ in batch size: {sorted(sizes)}")
        # Triton names them in no particular order, and all of them when the client named none.
        wanted = set(request.requested_output_names())
        outputs = tuple(name for name in self.output_names if name in wanted)
        return Ask(position, inputs, outputs, sizes.pop())

    def _answer(self, group: Sequence[Ask], responses: list[Any]) -> None:
        try:
            answers = self._run(group)
        except Exception as error:
            if len(group) == 1:
                responses[group[0].position] = _failure(error)
            else:
                # One bad request spoils a batch: run them one by one, so that only it gets the error.
                for ask in group:
                    self._answer([ask], responses)
            return
        for ask, answer in zip(group, answers, strict=True):
            responses[ask.position] = pb_utils.InferenceResponse(
                [pb_utils.Tensor(name, array) for name, array in answer.items()]
            )

    def _run(self, group: Sequence[Ask]) -> list[dict[str, Any]]:
        wanted = [name for name in self.output_names if any(name in ask.outputs for ask in group)]
        feed = (
            group[0].inputs
            if len(group) == 1
            else {name: np.concatenate([ask.inputs[name] for ask in group]) for name in group[0].inputs}
        )
        arrays = dict(zip(wanted, self.session.run(wanted, feed), strict=True))
        for name, array in arrays.items():
            if self.types[name] == "TYPE_STRING":
                arrays[name] = _encoded(array)
        if not self.batches:
            return [{name: arrays[name] for name in group[0].outputs}]
        total = sum(ask.batch for ask in group)
        for name, array in arrays.items():
            if not array.ndim or array.shape[0] != total:
                raise ValueError(
                    f"output {name}: shape {list(array.shape)} for a batch of {total}; the model does not "
                    "batch along the first dimension (max_batch_size: 0 serves it as it is)"
                )
        answers, start = [], 0
        for ask in group:
            answers.append({name: arrays[name][start : start + ask.batch] for name in ask.outputs})
            start += ask.batch
        return answers


def _complete(entries: Sequence[Mapping[str, Any]]) -> bool:
    return bool(entries) and all(
        entry.get("dims") and entry.get("data_type", "TYPE_INVALID") != "TYPE_INVALID" for entry in entries
    )


def _model_file(folder: Path, config: Mapping[str, Any]) -> str:
    path = folder / (config.get("default_model_filename") or DEFAULT_FILENAME)
    if path.is_dir():
        # The native backend's form for a model with external weights: a folder of that name.
        path /= DEFAULT_FILENAME
    if not path.is_file():
        raise FileNotFoundError(f"no model file {path}")
    return str(path)


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


def _refuse_unsupported(config: Mapping[str, Any]) -> None:
    if config.get("sequence_batching", {}).get("state"):
        raise ValueError("implicit state (sequence_batching.state) is not kept by a Python-based backend")
    accelerators = config.get("optimization", {}).get("execution_accelerators", {})
    named = [entry["name"] for entries in accelerators.values() for entry in entries]
    if named:
        raise ValueError(f"execution accelerators are not supported here: {', '.join(named)}")
    for name in sorted(set(config.get("parameters", {})) - PARAMETERS):
        pb_utils.Logger.log_warn(f"{config['name']}: the parameter {name} has no effect in this backend")


def _options(config: Mapping[str, Any], gpu: bool) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = _count(config, "intra_op_thread_count")
    options.inter_op_num_threads = _count(config, "inter_op_thread_count")
    if _count(config, "execution_mode"):
        options.execution_mode = onnxruntime.ExecutionMode.ORT_PARALLEL
    if not gpu and options.intra_op_num_threads == 0:
        # Every instance is a process of its own: without this each would take all cores.
        instances = sum(
            max(1, group.get("count", 1))
            for group in config.get("instance_group", [])
            if group.get("kind") != "KIND_GPU"
        )
        options.intra_op_num_threads = max(1, len(os.sched_getaffinity(0)) // max(1, instances))
    return options


def _count(config: Mapping[str, Any], name: str) -> int:
    text = config.get("parameters", {}).get(name, {}).get("string_value", "0")
    if not text.isdecimal():
        raise ValueError(f"parameter {name}: expected a whole number from 0, got {text!r}")
    return int(text)


def _check(config: Mapping[str, Any], session: Any, batches: bool) -> None:
    optional = {tensor.name: tensor for tensor in session.get_overridable_initializers()}
    inputs = {tensor.name: tensor for tensor in session.get_inputs()}
    outputs = {tensor.name: tensor for tensor in session.get_outputs()}
    for side, stated, known in (
        ("input", config["input"], inputs | optional),
        ("output", config["output"], outputs),
    ):
        for entry in stated:
            if entry["name"] not in known:
                raise ValueError(f"the model has no {side} {entry['name']!r}; it has: {', '.join(sorted(known))}")
            _check_tensor(entry, known[entry["name"]], batches)
    missing = sorted(set(inputs) - {entry["name"] for entry in config["input"]})
    if missing:
        raise ValueError(f"the model needs inputs that the configuration lacks: {', '.join(missing)}")


def _check_tensor(entry: Mapping[str, Any], tensor: Any, batches: bool) -> None:
    kind = _triton_type(tensor)
    if entry["data_type"] != kind:
        raise ValueError(f"{entry['name']}: the configuration says {entry['data_type']}, the model has {kind}")
    stated = entry.get("reshape", {}).get("shape", entry["dims"])
    wanted = [-1, *stated] if batches else list(stated)
    has = _dims(tensor)
    if batches and has and has[0] > 0:
        raise ValueError(
            f"{entry['name']}: the model's first dimension is fixed at {has[0]}, so it cannot batch: "
            "export it with a dynamic batch dimension, or set max_batch_size: 0"
        )
    # A model whose rank onnxruntime does not know has no shape at all.
    if tensor.shape and (
        len(has) != len(wanted) or any(a != b and -1 not in {a, b} for a, b in zip(has, wanted, strict=True))
    ):
        raise ValueError(f"{entry['name']}: the configuration says {wanted}, the model has {has}")


def _decoded(name: str, array: Any) -> Any:
    try:
        texts = [value.decode() for value in array.reshape(-1)]
    except UnicodeDecodeError as error:
        raise ValueError(f"input {name}: onnxruntime takes UTF-8 text only ({error})") from error
    return _objects(texts, array.shape)


def _encoded(array: Any) -> Any:
    return _objects([value.encode() for value in array.reshape(-1)], array.shape)


def _objects(values: Sequence[Any], shape: Any) -> Any:
    flat = np.empty(len(values), dtype=np.object_)
    flat[:] = values
    return flat.reshape(shape)


def _failure(error: Exception) -> Any:
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(str(error) or type(error).__name__))
