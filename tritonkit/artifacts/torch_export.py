"""From a torch.nn.Module to the file that Triton loads."""

from __future__ import annotations

import inspect
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from tritonkit.artifacts import onnx_runner, torch_module
from tritonkit.artifacts.parity import Answering, Parity, allow_rounding, compare, tolerances
from tritonkit.artifacts.recipes import TorchRecipe
from tritonkit.artifacts.signature import Tensor
from tritonkit.artifacts.torch_module import Named, Subject
from tritonkit.errors import ExportFailed

if TYPE_CHECKING:
    from tritonkit.artifacts.bisect import Departure

# Protobuf ends at 2 GiB; the graph itself needs a little of it.
_LARGEST_WITHIN = 2**31 - 2**26

# The first one whose convolutions, poolings and activations take BF16.
_OPSET_OF_BF16 = 22


@dataclass(frozen=True)
class Exported:
    """What was made, and how exact it is."""

    file: Path
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    precision: str
    parity: Parity


@dataclass(frozen=True)
class Conversion:
    """An artifact before its proof.

    Attributes:
        subject: the module that it was made from.
        file: where it lies.
        answering: what it answers.
        against: by what it is run.
    """

    subject: Subject
    file: Path
    answering: Answering
    against: str


def export(recipe: TorchRecipe, weights: Path | None, folder: Path, report: Callable[[str, float], None]) -> Exported:
    """Convert a module, write it into a folder, and prove it.

    Args:
        recipe: what to make.
        weights: the file with the state dictionary, if there is one.
        folder: where the artifact goes.
        report: called with each stage that begins, and how much is done by then.

    Raises:
        ExportFailed: the module cannot be made or converted, or the artifact computes something else.
        OSError: the disk refuses.
    """
    made = convert(recipe, weights, folder, report)
    report("proving", 0.8)
    parity = prove(recipe, made)
    parity.check()
    outputs = _shaped(recipe, made.subject, made.answering)
    return Exported(made.file, made.subject.inputs, outputs, made.subject.precision, parity)


def prove(recipe: TorchRecipe, made: Conversion) -> Parity:
    """How what was made compares with its source, whatever comes of it.

    Where it is beyond the tolerances of a lower precision, what that precision costs the source itself is measured too.

    Raises:
        ExportFailed: the source itself gives no usable answer.
    """
    subject = made.subject
    limits = tolerances(subject.precision, recipe.tolerances)
    parity = compare(subject.answer, made.answering, subject.asked, limits, made.against)
    if parity.passed or not subject.rounds:
        return parity
    return allow_rounding(parity, rounding(made), subject.precision, recipe.tolerances)


def rounding(made: Conversion) -> Parity:
    """How the source compares with itself when it computes in the artifact's precision.

    Raises:
        ExportFailed: the source gives no usable answer.
    """
    subject, against = made.subject, f"torch {torch.__version__} in {made.subject.precision}"
    return compare(subject.answer, subject.answer_rounded, subject.asked, tolerances(subject.precision), against)


def departure(
    recipe: TorchRecipe, weights: Path | None, folder: Path, report: Callable[[str, float], None]
) -> Departure | None:
    """Convert a module to ONNX without proof, and find the first node that computes something else; None for none.

    Raises:
        ExportFailed: the module cannot be made or converted.
    """
    from tritonkit.artifacts.bisect import first_departure

    made = convert(replace(recipe, filename="model.onnx"), weights, folder, report)
    report("comparing nodes", 0.8)
    return first_departure(made.subject, made.file, tolerances(made.subject.precision, recipe.tolerances))


def convert(
    recipe: TorchRecipe, weights: Path | None, folder: Path, report: Callable[[str, float], None]
) -> Conversion:
    """Convert a module and write it into a folder, without proof.

    Raises:
        ExportFailed: the module cannot be made or converted.
        OSError: the disk refuses.
    """
    report("loading", 0.0)
    module = torch_module.load(recipe, weights)
    subject = torch_module.subject(recipe, module)
    report("converting", 0.3)
    file = folder / recipe.filename
    writer = {"model.onnx": _to_onnx, "model.pt": _to_torchscript, "model.pt2": _to_archive}[recipe.filename]
    with _quiet():
        answering, against = writer(recipe, subject, file)
    return Conversion(subject, file, answering, against)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporters' own words: what they warn of is proved or refused here, and their progress is reported."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)


def _dynamic(recipe: TorchRecipe, inputs: Sequence[Tensor]) -> tuple[dict[int, Any], ...]:
    # DYNAMIC, unlike AUTO, refuses a module that bakes the dimension in.
    hint = torch.export.Dim.DYNAMIC
    return tuple(
        {axis: hint for axis, size in enumerate(tensor.shape or ()) if size < 0 or _is_batch(recipe, axis)}
        for tensor in inputs
    )


def _is_batch(recipe: TorchRecipe, axis: int) -> bool:
    return axis == 0 and recipe.asking.max_batch_size > 0


def _example(recipe: TorchRecipe, subject: Subject) -> list[torch.Tensor]:
    """Inputs to trace with: a batch of more than one, since exporters take a one for a constant."""
    question = subject.asked[len(subject.asked) // 2]
    values = torch_module.to_torch(subject.inputs, question.tensors)
    if recipe.asking.max_batch_size:
        values = [value if value.shape[0] > 1 else torch.cat([value, value]) for value in values]
    return values


def _exported_program(recipe: TorchRecipe, subject: Subject) -> Any:
    try:
        return torch.export.export(
            subject.converted,
            tuple(_example(recipe, subject)),
            dynamic_shapes=(_dynamic(recipe, subject.inputs),),
        )
    except Exception as error:
        raise ExportFailed(f"torch.export refuses the module: {_words(error)}") from error


def _words(error: BaseException) -> str:
    """What an exporter says, without the advice for its own developers."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    kept = [line for line in lines if not line.startswith(("The error above", "For more information", "File "))]
    return f"{type(error).__name__}: {' '.join(kept)[:600]}"


def _to_onnx(recipe: TorchRecipe, subject: Subject, file: Path) -> tuple[Answering, str]:
    program = _exported_program(recipe, subject)
    try:
        converted = torch.onnx.export(
            program,
            input_names=[tensor.name for tensor in subject.inputs],
            output_names=[tensor.name for tensor in subject.outputs],
            opset_version=recipe.opset or (_OPSET_OF_BF16 if subject.precision == "BF16" else None),
            dynamo=True,
            verbose=False,
        )
    except Exception as error:
        causes = [error]
        while causes[-1].__cause__ is not None:
            causes.append(causes[-1].__cause__)  # type: ignore[arg-type]
        raise ExportFailed(f"torch.onnx refuses the module: {_words(causes[-1])}") from error
    assert converted is not None  # noqa: S101 - with no file given, the program comes back
    _name_batch(recipe, converted.model)
    size = sum(value.nelement() * value.element_size() for value in subject.converted.state_dict().values())
    outside = recipe.external_data or size > _LARGEST_WITHIN
    converted.save(str(file), external_data=outside)
    return onnx_runner.answering(file)


def _name_batch(recipe: TorchRecipe, model: Any) -> None:
    """Call the first dimension what it is, instead of a symbol's number."""
    if not recipe.asking.max_batch_size:
        return
    symbols = {str(value.shape[0]) for value in model.graph.inputs if value.shape is not None and len(value.shape)}
    if len(symbols) != 1:
        return
    (symbol,) = symbols
    import onnx_ir as ir

    for value in (*model.graph.inputs, *model.graph.outputs, *(out for node in model.graph for out in node.outputs)):
        if value.shape is not None and not value.shape.frozen:
            for axis, size in enumerate(value.shape):
                if str(size) == symbol:
                    value.shape[axis] = ir.SymbolicDim("batch")


def _to_torchscript(recipe: TorchRecipe, subject: Subject, file: Path) -> tuple[Answering, str]:
    try:
        with torch.inference_mode():
            traced = torch.jit.trace(_with_arguments(subject), tuple(_example(recipe, subject)), check_trace=False)
    except Exception as error:
        raise ExportFailed(f"TorchScript cannot trace the module: {_words(error)}") from error
    torch.jit.save(traced, str(file))
    loaded = torch.jit.load(str(file), map_location="cpu")
    return _answering(loaded, subject), f"TorchScript of torch {torch.__version__}"


def _with_arguments(subject: Subject) -> torch.nn.Module:
    """The module with its inputs' names as forward's arguments, by which Triton's PyTorch backend finds them."""

    class Traced(torch.nn.Module):
        def __init__(self, module: Named) -> None:
            super().__init__()
            self.module = module

        def forward(self, *values: torch.Tensor) -> Any:
            answer = self.module(*values)
            return answer[0] if len(answer) == 1 else answer

    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    names = ["self", *(tensor.name for tensor in subject.inputs)]
    # A tracer reads the signature, and names arguments that it cannot see argument_1, argument_2 ...
    Traced.forward.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [inspect.Parameter(name, kind) for name in names]
    )
    return Traced(subject.converted).eval()


def _to_archive(recipe: TorchRecipe, subject: Subject, file: Path) -> tuple[Answering, str]:
    torch.export.save(_exported_program(recipe, subject), str(file))
    return _answering(torch.export.load(str(file)).module(), subject), f"torch.export of torch {torch.__version__}"


def _answering(loaded: Any, subject: Subject) -> Answering:
    def answer(tensors: Mapping[str, Any]) -> Mapping[str, Any]:
        def tupled(*values: torch.Tensor) -> Any:
            given = loaded(*values)
            return (given,) if isinstance(given, torch.Tensor) else given

        return torch_module.run(tupled, subject.inputs, subject.outputs, tensors)

    return answer


def _shaped(recipe: TorchRecipe, subject: Subject, answering: Answering) -> tuple[Tensor, ...]:
    """The outputs with their shapes: a dimension varies where two answers differ in it, or where it is the batch."""
    shapes: dict[str, list[tuple[int, ...]]] = {tensor.name: [] for tensor in subject.outputs}
    for question in subject.asked:
        for name, value in answering(question.tensors).items():
            shapes[name].append(value.shape)
    outputs = []
    for tensor in subject.outputs:
        sizes = zip(*shapes[tensor.name], strict=True)
        shape = tuple(
            -1 if len(set(found)) > 1 or _is_batch(recipe, axis) else found[0] for axis, found in enumerate(sizes)
        )
        outputs.append(Tensor(tensor.name, tensor.data_type, shape))
    return tuple(outputs)
