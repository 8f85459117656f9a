"""The ``tensorrt`` backend for a tritonserver that has no native one.

It runs plans (``model.plan``) through ``tensorrt`` or ``tensorrt_rtx``, each batch by the optimization profile
that fits it most closely, and in CUDA graphs when ``optimization.cuda.graphs`` asks for them, as the native
backend does. The parameter ``batch_buckets`` is its own. Where the native library is installed, Triton takes
that one and this file is not read.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

# The copy of the shared modules beside this file goes before an installed one, which may be of another version.
sys.path.insert(0, str(Path(__file__).parent))

from tritonkit.backends.batching import configuration
from tritonkit.backends.batching.batcher import Batcher
from tritonkit.backends.batching.configuration import NUMPY_TYPES, STRING, Model
from tritonkit.backends.batching.padding import harm
from tritonkit.backends.engines.tensorrt_plans import PlanEngine

DEFAULT_FILENAME = "model.plan"
TRITON_TYPES = {np.dtype(kind): name for name, kind in NUMPY_TYPES.items() if name != STRING}


class TritonPythonModel:
    """One instance of a plan."""

    @staticmethod
    def auto_complete_config(auto_complete_model_config: Any) -> Any:
        """Fill in the inputs and outputs that the configuration leaves out, from the plan."""
        config = auto_complete_model_config.as_dict()
        if all(configuration.complete(config[side]) for side in ("input", "output")):
            return auto_complete_model_config
        path = configuration.model_file(Path(pb_utils.get_model_dir()), config, DEFAULT_FILENAME)
        bare = Model(config, path.parent, 0, (), ())
        engine = PlanEngine(path, bare, graphs=False, say=pb_utils.Logger.log_warn)
        batches = config["max_batch_size"] > 0
        if not batches and not config["input"] and not config["output"]:
            tensors = [*engine.tensors("input"), *engine.tensors("output")]
            batches = all(shape and shape[0] == -1 for _, shape in tensors)
            if batches:
                auto_complete_model_config.set_max_batch_size(engine.largest_batch())
        for side, add in (
            ("input", auto_complete_model_config.add_input),
            ("output", auto_complete_model_config.add_output),
        ):
            stated = {entry["name"] for entry in config[side] if configuration.complete([entry])}
            for name, shape in engine.tensors(side):
                if name not in stated:
                    dims = list(shape[1:] if batches else shape)
                    add({"name": name, "data_type": TRITON_TYPES[engine.dtype(name)], "dims": dims})
        return auto_complete_model_config

    def initialize(self, args: Mapping[str, str]) -> None:
        """Load the plan for one instance; every fault of the configuration is an error here."""
        model = configuration.read(args)
        if model.device is None:
            raise ValueError("a TensorRT plan runs on a GPU: ask for KIND_GPU")
        path = configuration.model_file(model.folder, model.config, DEFAULT_FILENAME)
        for words in configuration.warn_unused(model.config, frozenset()):
            pb_utils.Logger.log_warn(words)
        graphs = bool(model.config.get("optimization", {}).get("cuda", {}).get("graphs"))

        def say(words: str) -> None:
            pb_utils.Logger.log_warn(f"{model.name}: {words}")

        self.engine = PlanEngine(path, model, graphs=graphs, say=say)
        _check(model, self.engine)
        # A plan is built for a range of sizes, so only graphs and stated sizes are a reason to pad.
        stated = configuration.parameter(model.config, "batch_buckets")
        sizes = configuration.batch_sizes(model) if graphs or stated else ()
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
        """Free the plan while TensorRT's own state is still alive."""
        del self.batcher, self.engine


def _check(model: Model, engine: PlanEngine) -> None:
    for side, stated in (("input", model.inputs), ("output", model.outputs)):
        known = dict(engine.tensors(side))
        for tensor in stated:
            if tensor.optional:
                raise ValueError(f"{tensor.name}: a plan has no optional inputs")
            if tensor.name not in known:
                raise ValueError(f"the plan has no {side} {tensor.name!r}; it has: {', '.join(sorted(known))}")
            kind = TRITON_TYPES.get(engine.dtype(tensor.name), str(engine.dtype(tensor.name)))
            if tensor.type != kind:
                raise ValueError(f"{tensor.name}: the configuration says {tensor.type}, the plan has {kind}")
            wanted = [*([-1] if model.max_batch_size else []), *tensor.dims]
            has = list(known[tensor.name])
            if len(has) != len(wanted) or any(a != b and -1 not in {a, b} for a, b in zip(has, wanted, strict=True)):
                raise ValueError(f"{tensor.name}: the configuration says {wanted}, the plan has {has}")
        missing = sorted(set(known) - {tensor.name for tensor in stated}) if side == "input" else []
        if missing:
            raise ValueError(f"the plan needs inputs that the configuration lacks: {', '.join(missing)}")
    if model.max_batch_size > engine.largest_batch() > 0:
        raise ValueError(
            f"max_batch_size is {model.max_batch_size}, but the plan takes at most {engine.largest_batch()} rows"
        )
