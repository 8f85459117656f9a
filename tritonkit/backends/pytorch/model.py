"""The ``pytorch`` backend for a tritonserver that has no native one.

It takes TorchScript (``model.pt``) and programs of ``torch.export`` (``model.pt2``), and the native backend's
rules for names: forward's own argument names, ``NAME__0``, ``NAME__1``, ..., or the configuration's order. Of
its parameters, those in ``PARAMETERS``; ``CHANNELS_LAST`` and ``batch_buckets`` are its own. Where the native
library is installed, Triton takes that one and this file is not read.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

# The copy of the shared modules beside this file goes before an installed one, which may be of another version.
sys.path.insert(0, str(Path(__file__).parent))

from tritonkit.backends.batching import configuration
from tritonkit.backends.batching.batcher import Batcher
from tritonkit.backends.batching.configuration import NUMPY_TYPES, STRING, Model
from tritonkit.backends.batching.padding import example, harm

FILENAMES = ("model.pt", "model.pt2")
PARAMETERS = frozenset(
    {
        "CHANNELS_LAST",
        "DISABLE_CUDNN",
        "DISABLE_OPTIMIZED_EXECUTION",
        "ENABLE_JIT_EXECUTOR",
        "ENABLE_JIT_PROFILING",
        "ENABLE_TENSOR_FUSER",
        "INFERENCE_MODE",
        "INTER_OP_THREAD_COUNT",
        "INTRA_OP_THREAD_COUNT",
    }
)
NUMBERED = re.compile(r".*__(\d+)")


class TritonPythonModel:
    """One instance of a TorchScript module or an exported program."""

    @staticmethod
    def auto_complete_config(auto_complete_model_config: Any) -> Any:
        """Fill in the inputs and outputs of an exported program; a TorchScript module does not know its own."""
        config = auto_complete_model_config.as_dict()
        if all(configuration.complete(config[side]) for side in ("input", "output")):
            return auto_complete_model_config
        path = _model_file(Path(pb_utils.get_model_dir()), config)
        if path.suffix != ".pt2":
            raise ValueError("a TorchScript module does not say its shapes and types: state input and output")
        import torch

        inputs, outputs = _described(torch.export.load(path))
        # A program's outputs have places, not names.
        outputs = [
            (entry["name"], *rest[1:]) for entry, rest in zip(config["output"], outputs, strict=False)
        ] or outputs
        batches = config["max_batch_size"] > 0
        if not batches and not config["input"] and not config["output"]:
            batches = all(dims and dims[0] == -1 for _, _, dims in [*inputs, *outputs])
            if batches:
                auto_complete_model_config.set_max_batch_size(configuration.DEFAULT_MAX_BATCH_SIZE)
        for side, add, known in (
            ("input", auto_complete_model_config.add_input, inputs),
            ("output", auto_complete_model_config.add_output, outputs),
        ):
            stated = {entry["name"] for entry in config[side] if configuration.complete([entry])}
            for name, kind, dims in known:
                if name not in stated:
                    add({"name": name, "data_type": kind, "dims": dims[1:] if batches else dims})
        return auto_complete_model_config

    def initialize(self, args: Mapping[str, str]) -> None:
        """Load the model for one instance; every fault of the configuration is an error here."""
        import torch

        from tritonkit.backends.engines.torch_programs import TorchEngine, load

        model = configuration.read(args)
        config = model.config
        for words in configuration.warn_unused(config, PARAMETERS):
            pb_utils.Logger.log_warn(words)
        for tensor in (*model.inputs, *model.outputs):
            if tensor.type == STRING or tensor.optional:
                raise ValueError(f"{tensor.name}: PyTorch models take no text and no optional inputs here")
        if model.device is not None and not torch.cuda.is_available():
            raise RuntimeError(
                f"the instance is KIND_GPU, but this torch ({torch.__version__}) cannot use a GPU here: install a "
                "CUDA build of torch that fits the driver, or ask for KIND_CPU"
            )
        threads = configuration.whole_number(config, "INTRA_OP_THREAD_COUNT")
        if model.device is None:
            torch.set_num_threads(threads or configuration.cpu_threads(model))
        between = configuration.whole_number(config, "INTER_OP_THREAD_COUNT")
        if between:
            torch.set_num_interop_threads(between)
        torch.backends.cudnn.enabled = not configuration.switch(config, "DISABLE_CUDNN")
        device = torch.device("cpu" if model.device is None else f"cuda:{model.device}")
        module = load(_model_file(model.folder, config), device)
        say = partial(_say, model)
        self.engine = TorchEngine(module, partial(_caller, model), model, _mode(config), say)
        sizes = configuration.batch_sizes(model)
        self._choose_layout(config, model)
        _check(model, self.engine)
        harmed = harm(model, self.engine, sizes)
        if harmed:
            say(f"batches are not padded: {harmed}")
            sizes = tuple(range(1, model.max_batch_size + 1)) if model.max_batch_size <= 16 else ()
        self.engine.prepare(sizes if model.max_batch_size else (0,))
        self.batcher = Batcher(model, self.engine, sizes)

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Answer every request, in order."""
        return self.batcher.execute(requests)

    def finalize(self) -> None:
        """Free the module while torch's own state is still alive."""
        del self.batcher, self.engine

    def _choose_layout(self, config: Mapping[str, Any], model: Model) -> None:
        if "CHANNELS_LAST" in config.get("parameters", {}):
            if configuration.switch(config, "CHANNELS_LAST"):
                self.engine.use_channels_last()
        elif model.device is not None:
            self.engine.try_channels_last(model.max_batch_size)


def _say(model: Model, words: str) -> None:
    pb_utils.Logger.log_warn(f"{model.name}: {words}")


def _model_file(folder: Path, config: Mapping[str, Any]) -> Path:
    # Triton itself writes model.pt into a configuration that names no file.
    stated = config.get("default_model_filename") or FILENAMES[0]
    names = (stated, *FILENAMES) if stated == FILENAMES[0] else (stated,)
    found = next((name for name in names if (folder / name).is_file()), stated)
    return configuration.model_file(folder, {"default_model_filename": found}, found)


def _mode(config: Mapping[str, Any]) -> Callable[[], AbstractContextManager[Any]]:
    """What to run the model in: no gradients, and the executor that the parameters ask for."""
    import torch

    inference = configuration.switch(config, "INFERENCE_MODE", default=True)
    optimized = not configuration.switch(config, "DISABLE_OPTIMIZED_EXECUTION")
    for name, set_it in (
        ("ENABLE_JIT_EXECUTOR", torch._C._jit_set_profiling_executor),
        ("ENABLE_JIT_PROFILING", torch._C._jit_set_profiling_mode),
        ("ENABLE_TENSOR_FUSER", torch._C._jit_set_texpr_fuser_enabled),
    ):
        if name in config.get("parameters", {}):
            set_it(configuration.switch(config, name))

    def enter() -> AbstractContextManager[Any]:
        stack = ExitStack()
        stack.enter_context(torch.inference_mode() if inference else torch.no_grad())
        if not optimized:
            stack.enter_context(torch.jit.optimized_execution(False))
        return stack

    return enter


def _caller(model: Model, module: Any) -> Callable[[Mapping[str, Any]], Mapping[str, Any]]:
    """The module as a function of named tensors, by the native backend's rules for names."""
    names = [tensor.name for tensor in model.inputs]
    arguments, takes_dict = _arguments(module)
    if not takes_dict and len(names) != len(arguments):
        raise ValueError(
            f"the model takes {len(arguments)} inputs ({', '.join(arguments)}), the configuration has {len(names)}"
        )
    order = [name for name in arguments if name in names] if set(arguments) == set(names) else _ordered(names, "input")
    outputs = [tensor.name for tensor in model.outputs]
    by_place = _ordered(outputs, "output")

    def call(inputs: Mapping[str, Any]) -> Mapping[str, Any]:
        answer = module(dict(inputs)) if takes_dict else module(*(inputs[name] for name in order))
        if isinstance(answer, Mapping):
            return {name: answer[name] for name in outputs}
        answers = tuple(answer) if isinstance(answer, (tuple, list)) else (answer,)
        if len(answers) < len(by_place):
            raise ValueError(f"the model gives {len(answers)} outputs, the configuration has {len(by_place)}")
        numbered = all(NUMBERED.fullmatch(name) for name in by_place)
        places = [int(name.rpartition("__")[2]) for name in by_place] if numbered else range(len(by_place))
        return {name: answers[place] for name, place in zip(by_place, places, strict=True)}

    return call


def _arguments(module: Any) -> tuple[list[str], bool]:
    """The names of forward's arguments, and whether it takes one dictionary of tensors."""
    schema = getattr(getattr(module, "forward", None), "schema", None)
    if schema is None:
        import inspect

        return list(inspect.signature(module.forward).parameters), False
    stated = [argument for argument in schema.arguments if argument.name != "self"]
    return [argument.name for argument in stated if not argument.has_default_value()], (
        len(stated) == 1 and str(stated[0].type).startswith("Dict")
    )


def _ordered(names: Sequence[str], side: str) -> list[str]:
    """By their numbers where all have one, as NAME__0; else as the configuration lists them."""
    numbers = [match and int(match[1]) for match in map(NUMBERED.fullmatch, names)]
    if None in numbers:
        return list(names)
    if len(set(numbers)) < len(numbers):
        raise ValueError(f"two {side}s have one number: {', '.join(names)}")
    return sorted(names, key=lambda name: int(name.rpartition("__")[2]))


def _check(model: Model, engine: Any) -> None:
    """Run random rows once: their count, types and shapes must be the configuration's."""
    if not model.fixed:
        return
    rows = min(2, model.max_batch_size)
    names = [tensor.name for tensor in model.outputs]
    try:
        answers = engine.run(example(model, rows), names)
    except ValueError:
        raise
    except Exception as error:
        _say(model, f"random rows do not run, so its outputs are not checked ({str(error).strip().splitlines()[-1]})")
        return
    for tensor, answer in zip(model.outputs, answers, strict=True):
        if answer.dtype != np.dtype(NUMPY_TYPES[tensor.type]):
            raise ValueError(f"{tensor.name}: the configuration says {tensor.type}, the model gives {answer.dtype}")
        wanted = [*([rows] if model.max_batch_size else []), *tensor.dims]
        has = list(answer.shape)
        if len(has) != len(wanted) or any(b not in (a, -1) for a, b in zip(has, wanted, strict=True)):
            raise ValueError(f"{tensor.name}: the configuration says {wanted}, the model gives {has}")


def _described(program: Any) -> tuple[list[Any], list[Any]]:
    """Names, types and dims of an exported program's inputs and outputs."""
    nodes = {node.name: node for node in program.graph.nodes}

    def entry(name: str, node: str) -> tuple[str, str, list[int]]:
        value = nodes[node].meta["val"]
        numpy_name = str(value.dtype).removeprefix("torch.")
        kinds = {np.dtype(kind).name: triton for triton, kind in NUMPY_TYPES.items() if triton != STRING}
        if numpy_name not in kinds:
            raise ValueError(f"{name}: Triton's Python stub cannot carry torch's {numpy_name}")
        return name, kinds[numpy_name], [size if isinstance(size, int) else -1 for size in value.shape]

    signature = program.graph_signature
    inputs = [entry(name, name) for name in signature.user_inputs]
    outputs = [entry(f"OUTPUT__{place}", name) for place, name in enumerate(signature.user_outputs)]
    return inputs, outputs
