"""The user's torch.nn.Module: made by its factory, with its weights, its inputs and outputs named."""

from __future__ import annotations

import importlib
import inspect
import pickle
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tritonkit.artifacts.questions import DTYPES, Array, Question, questions, read_npz
from tritonkit.artifacts.recipes import TorchRecipe
from tritonkit.artifacts.signature import Tensor
from tritonkit.errors import ExportFailed

_PRECISIONS = {"FP32": torch.float32, "FP16": torch.float16, "BF16": torch.bfloat16}

_TYPES = {
    torch.bool: "TYPE_BOOL",
    torch.uint8: "TYPE_UINT8",
    torch.int8: "TYPE_INT8",
    torch.int16: "TYPE_INT16",
    torch.int32: "TYPE_INT32",
    torch.int64: "TYPE_INT64",
    torch.float16: "TYPE_FP16",
    torch.float32: "TYPE_FP32",
    torch.float64: "TYPE_FP64",
    torch.bfloat16: "TYPE_BF16",
}
_OF_TRITON = {name: kind for kind, name in _TYPES.items()}


def load(recipe: TorchRecipe, weights: Path | None) -> torch.nn.Module:
    """The module of a recipe, in evaluation mode, on the CPU.

    Raises:
        ExportFailed: the factory cannot be imported, raises, or returns something else; the weights do not fit.
    """
    module = _made(recipe)
    if weights is not None:
        _load_weights(module, weights)
    return module.eval().requires_grad_(requires_grad=False)


def _made(recipe: TorchRecipe) -> torch.nn.Module:
    name, _, function = recipe.factory.partition(":")
    sys.path.insert(0, str(recipe.directory))
    # A factory that draws its weights draws the same ones every time.
    torch.manual_seed(recipe.asking.seed)
    try:
        factory: Any = importlib.import_module(name)
        for part in function.split("."):
            factory = getattr(factory, part)
        module = factory(**recipe.arguments)
    except Exception as error:
        where = _innermost(error, recipe.directory)
        raise ExportFailed(f"the factory {recipe.factory} raised {type(error).__name__}: {error}{where}") from error
    if not isinstance(module, torch.nn.Module):
        raise ExportFailed(f"the factory {recipe.factory} returned a {type(module).__name__}, not a torch.nn.Module")
    return module


def _innermost(error: Exception, directory: Path) -> str:
    """The last line of the user's own code that an error came through."""
    found = ""
    traceback = error.__traceback__
    while traceback is not None:
        file = Path(traceback.tb_frame.f_code.co_filename)
        if file.is_relative_to(directory):
            found = f" ({file.relative_to(directory)}:{traceback.tb_lineno})"
        traceback = traceback.tb_next
    return found


def _load_weights(module: torch.nn.Module, weights: Path) -> None:
    try:
        if weights.suffix == ".safetensors":
            from safetensors.torch import load_file

            state: Any = load_file(weights)
        else:
            state = torch.load(weights, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        hint = "save the state dictionary alone: torch.save(module.state_dict(), path)"
        words = str(error).split("\n", maxsplit=1)[0]
        raise ExportFailed(f"{weights} is refused: it holds more than weights ({words})", hint=hint) from None
    except ModuleNotFoundError as error:
        raise ExportFailed(f"{weights} cannot be read: {error}", hint=f"pip install {error.name}") from None
    except Exception as error:
        raise ExportFailed(f"{weights} cannot be read as weights: {error}") from error
    if isinstance(state, Mapping) and isinstance(state.get("state_dict"), Mapping):
        state = state["state_dict"]
    if not isinstance(state, Mapping):
        raise ExportFailed(f"{weights} holds a {type(state).__name__}, not a state dictionary")
    try:
        module.load_state_dict(state)
    except RuntimeError as error:
        raise ExportFailed(f"the weights of {weights} do not fit the module: {error}") from None


class Named(torch.nn.Module):
    """A module whose inputs come in a known order, and whose outputs are a tuple of tensors with known names."""

    def __init__(
        self,
        module: torch.nn.Module,
        inputs: Sequence[Tensor],
        outputs: Sequence[str | int],
        casts: tuple[torch.dtype | None, Sequence[torch.dtype | None]],
    ) -> None:
        super().__init__()
        self.module = module
        self._inputs = tuple(tensor.name for tensor in inputs)
        self._outputs = tuple(outputs)
        self._by_name = _takes_by_name(module, self._inputs)
        self._inside, self._outside = casts

    def forward(self, *values: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """The outputs, in order."""
        if self._inside is not None:
            values = tuple(value.to(self._inside) if value.is_floating_point() else value for value in values)
        by_name = dict(zip(self._inputs, values, strict=True))
        answer = self.module(**by_name) if self._by_name else self.module(*values)
        held = named_outputs(answer)
        chosen = (held[name] if isinstance(name, str) else list(held.values())[name] for name in self._outputs)
        return tuple(
            value if kind is None else value.to(kind) for value, kind in zip(chosen, self._outside, strict=True)
        )


def _takes_by_name(module: torch.nn.Module, names: Sequence[str]) -> bool:
    known = inspect.signature(module.forward).parameters
    return all(name in known and known[name].kind is not known[name].POSITIONAL_ONLY for name in names)


def named_outputs(answer: Any) -> dict[str, torch.Tensor]:
    """A module's answer as tensors by name: a dictionary's keys, else ``output`` or ``output_0`` and so on."""
    if isinstance(answer, torch.Tensor):
        return {"output": answer}
    if isinstance(answer, Mapping):
        return {str(name): value for name, value in answer.items() if isinstance(value, torch.Tensor)}
    if isinstance(answer, tuple | list):
        fields = getattr(answer, "_fields", None) or [f"output_{index}" for index in range(len(answer))]
        return {name: value for name, value in zip(fields, answer, strict=True) if isinstance(value, torch.Tensor)}
    return {}


@dataclass(frozen=True)
class Subject:
    """A module ready for conversion.

    Attributes:
        reference: answers the questions in the module's own precision.
        converted: the same function in the wanted precision, which the exporters take.
        inputs: its inputs.
        outputs: its outputs; their shapes are not known before the conversion.
        asked: the questions for the proof.
        precision: the precision of ``converted``.
    """

    reference: Named
    converted: Named
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    asked: tuple[Question, ...]
    precision: str

    def answer(self, tensors: Mapping[str, Array]) -> dict[str, Array]:
        """What the source computes."""
        return run(self.reference, self.inputs, self.outputs, tensors)

    @property
    def rounds(self) -> bool:
        """Whether the conversion is to another precision than the module's own."""
        return self.converted.module is not self.reference.module

    def answer_rounded(self, tensors: Mapping[str, Array]) -> dict[str, Array]:
        """What the source computes in the wanted precision."""
        return run(self.converted, self.inputs, self.outputs, tensors)


def subject(recipe: TorchRecipe, module: torch.nn.Module) -> Subject:
    """Name a module's inputs and outputs, and choose its questions.

    Raises:
        ExportFailed: it cannot answer the first question, or lacks an output that the spec names.
    """
    inputs = recipe.inputs or _of_example(recipe)
    own = next((value.dtype for value in module.parameters() if value.is_floating_point()), torch.float32)
    wanted = _PRECISIONS[recipe.precision] if recipe.precision else own
    asked = questions(inputs, recipe.asking)
    names, outputs = _outputs(recipe, module, inputs, asked[0], own, wanted)
    # The reference computes in its own precision: what the conversion to another one loses is part of the proof.
    reference = Named(module, inputs, names, (own, [None] * len(names)))
    kinds = [_OF_TRITON[tensor.data_type] for tensor in outputs]
    if wanted is own:
        converted = Named(module, inputs, names, (None if _all_of(inputs, own) else own, kinds))
    else:
        copy = _made(recipe).eval().requires_grad_(requires_grad=False)
        copy.load_state_dict(module.state_dict())
        converted = Named(copy.to(wanted), inputs, names, (None if _all_of(inputs, wanted) else wanted, kinds))
    precision = next((name for name, kind in _PRECISIONS.items() if kind is wanted), "FP32")
    return Subject(reference.eval(), converted.eval(), inputs, outputs, asked, precision)


def _all_of(inputs: Sequence[Tensor], kind: torch.dtype) -> bool:
    kinds = [_OF_TRITON[tensor.data_type] for tensor in inputs if tensor.data_type in _OF_TRITON]
    return all(each is kind or not each.is_floating_point for each in kinds)


def _of_example(recipe: TorchRecipe) -> tuple[Tensor, ...]:
    """The inputs as an example has them: the batch varies, and nothing else."""
    if recipe.example is None:
        raise ExportFailed("neither 'input' nor an example says what the module takes")
    names = {np.dtype(kind): name for name, kind in DTYPES.items()}
    tensors = []
    for name, value in read_npz(recipe.example).items():
        if value.dtype not in names:
            raise ExportFailed(f"{recipe.example}: '{name}' is of type {value.dtype}, which Triton does not know")
        shape = (-1, *value.shape[1:]) if recipe.asking.max_batch_size else value.shape
        tensors.append(Tensor(name, names[value.dtype], shape))
    return tuple(tensors)


def _outputs(
    recipe: TorchRecipe,
    module: torch.nn.Module,
    inputs: Sequence[Tensor],
    question: Question,
    own: torch.dtype,
    wanted: torch.dtype,
) -> tuple[list[str | int], tuple[Tensor, ...]]:
    probe = Named(module, inputs, (), (own, ()))
    with torch.inference_mode():
        try:
            values = to_torch(inputs, question.tensors)
            values = [value.to(own) if value.is_floating_point() else value for value in values]
            by_name = dict(zip([tensor.name for tensor in inputs], values, strict=True))
            held = named_outputs(module(**by_name) if probe._by_name else module(*values))
        except Exception as error:
            where = _innermost(error, recipe.directory)
            hint = "state what it takes: export.profiles, export.ranges, or export.inputs with a .npz file"
            words = " ".join(str(error).split())[:300]
            message = f"the module raised {type(error).__name__} for {question.label}: {words}{where}"
            raise ExportFailed(message, hint=hint) from error
    if not held:
        raise ExportFailed("the module returns no tensors: neither a tensor, nor a tuple, list or mapping of some")
    stated = [tensor.name for tensor in recipe.outputs]
    names: list[str | int]
    if not stated:
        names, shown = list(held), list(held)
        if recipe.filename != "model.onnx":
            # Triton's PyTorch backend knows outputs by their place, which it reads from their names.
            shown = [f"{name}__{index}" for index, name in enumerate(held)]
    elif all(_key(name, held) for name in stated):
        names, shown = [_key(name, held) for name in stated], stated
    elif len(stated) == len(held):
        names, shown = list(range(len(held))), stated
    else:
        message = f"the module returns {len(held)} outputs ({', '.join(held)}), the spec states {', '.join(stated)}"
        raise ExportFailed(message)
    kinds = {tensor.name: tensor.data_type for tensor in recipe.outputs}
    # Where the inputs come in the precision, the outputs leave in it; else the precision is an inner affair.
    outside = wanted if any(_OF_TRITON.get(tensor.data_type) is wanted for tensor in inputs) else own
    tensors = []
    for name, label in zip(names, shown, strict=True):
        value = held[name] if isinstance(name, str) else list(held.values())[name]
        kind = outside if value.is_floating_point() and recipe.precision else value.dtype
        if kind not in _TYPES:
            raise ExportFailed(f"the output '{label}' is of type {kind}, which Triton does not know")
        tensors.append(Tensor(label, kinds.get(label) or _TYPES[kind], None))
    return names, tuple(tensors)


def _key(name: str, held: Mapping[str, Any]) -> str:
    """The module's own name of an output that the spec names: ``logits`` for ``logits`` and for ``logits__0``."""
    return next((known for known in (name, name.rpartition("__")[0]) if known in held), "")


def to_torch(inputs: Sequence[Tensor], tensors: Mapping[str, Array]) -> list[torch.Tensor]:
    """Values as torch has them, in the order of the inputs."""
    values = []
    for tensor in inputs:
        value = tensors[tensor.name]
        if tensor.data_type == "TYPE_BF16":
            values.append(torch.from_numpy(value.astype(np.float32)).to(torch.bfloat16))
        else:
            values.append(torch.from_numpy(np.ascontiguousarray(value)))
    return values


def run(
    module: Any, inputs: Sequence[Tensor], outputs: Sequence[Tensor], tensors: Mapping[str, Array]
) -> dict[str, Array]:
    """What something of torch's answers."""
    with torch.inference_mode():
        answer = module(*to_torch(inputs, tensors))
    return {
        tensor.name: (value.float() if value.dtype is torch.bfloat16 else value).cpu().numpy()
        for tensor, value in zip(outputs, answer, strict=True)
    }
