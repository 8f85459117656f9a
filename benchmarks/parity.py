"""How exact exports are: ResNet-50, MobileNetV2, ViT-B/16 and BERT-base in FP32 and FP16, through onnxruntime.

    python benchmarks/parity.py --provider CUDAExecutionProvider --output benchmarks/parity.md

Weights are random, normalization is calibrated to the random images, and no download is needed. Such networks carry
rounding further than trained ones: so each FP16 export stands beside what torch's own FP16 costs the same module.
Needs torch, torchvision, transformers, onnx, onnxscript and onnxruntime (-gpu).
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from tritonkit.artifacts import onnx_runner, torch_export
from tritonkit.artifacts.parity import Row
from tritonkit.artifacts.recipes import Asking, Shapes, Tolerances, TorchRecipe
from tritonkit.artifacts.signature import Tensor

MAX_BATCH_SIZE = 8


def image_module(name: str) -> torch.nn.Module:
    """A network of torchvision with random weights, its batch normalization calibrated."""
    import torchvision

    module: torch.nn.Module = getattr(torchvision.models, name)(weights=None)
    layers = [layer for layer in module.modules() if isinstance(layer, torch.nn.BatchNorm2d)]
    for layer in layers:
        layer.momentum = None
    if layers:
        # Fresh statistics would let the activations grow beyond what FP16 holds.
        module.train()
        with torch.no_grad():
            for _ in range(2):
                module(torch.randn(8, 3, 224, 224))
    return module


def resnet50() -> torch.nn.Module:
    return image_module("resnet50")


def mobilenet_v2() -> torch.nn.Module:
    return image_module("mobilenet_v2")


def vit_b_16() -> torch.nn.Module:
    module = image_module("vit_b_16")
    # Its classifier begins as zeros, which would make any two exports equal.
    torch.nn.init.normal_(module.heads.head.weight, std=0.02)
    return module


def bert_base() -> torch.nn.Module:
    from transformers import BertConfig, BertModel

    module: torch.nn.Module = BertModel(BertConfig())
    return module


def images(data_type: str) -> tuple[Tensor, ...]:
    return (Tensor("image", data_type, (-1, 3, 224, 224)),)


def recipe(name: str, precision: str) -> TorchRecipe:
    data_type = f"TYPE_{precision}"
    inputs, asking = images(data_type), Asking(MAX_BATCH_SIZE)
    if name == "bert_base":
        inputs = tuple(Tensor(each, "TYPE_INT64", (-1, -1)) for each in ("input_ids", "attention_mask"))
        shapes = Shapes((1, 16), (4, 77), (MAX_BATCH_SIZE, 128))
        ranges = {"input_ids": (0, 30_521), "attention_mask": (1, 1)}
        profile = {tensor.name: shapes for tensor in inputs}
        asking = Asking(MAX_BATCH_SIZE, ranges=ranges, profiles=(profile,))
    outputs = (Tensor("last_hidden_state", data_type, None),) if name == "bert_base" else ()
    return TorchRecipe(
        directory=Path(__file__).parent,
        factory=f"parity:{name}",
        arguments={},
        weights=None,
        example=None,
        inputs=inputs,
        outputs=outputs,
        filename="model.onnx",
        precision=precision,
        opset=None,
        external_data=False,
        asking=asking,
        tolerances=Tolerances(),
    )


def row(name: str, precision: str, provider: str) -> list[str]:
    asked = recipe(name, precision)
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        made = torch_export.convert(asked, None, Path(folder), lambda _stage, _share: None)
        seconds = time.monotonic() - begun
        # The provider that is asked for, or an error: never another one in silence.
        answering, against = onnx_runner.answering(made.file, provider)
        made = torch_export.Conversion(made.subject, made.file, answering, against)
        parity = torch_export.prove(asked, made)
        itself = parity.rounding or (torch_export.rounding(made).rows if made.subject.rounds else ())
        size = sum(file.stat().st_size for file in Path(folder).iterdir())
    worst, limits = parity.worst, parity.tolerances
    verdict = "passed" if parity.passed else f"FAILED {worst.question} {worst.output} {worst.fault}".strip()
    tolerated = f"{limits.relative:.1e}, {limits.cosine:.5f}"
    figures = [f"{max(each.absolute for each in parity.rows):.1e}", *figures_of(parity.rows), *figures_of(itself)]
    return [name, precision, f"{size / 1e6:.0f} MB", f"{seconds:.0f} s", *figures, tolerated, verdict]


def figures_of(rows: Sequence[Row]) -> list[str]:
    """The largest relative error and the smallest cosine."""
    if not rows:
        return ["", ""]
    return [f"{max(each.relative for each in rows):.1e}", f"{min(each.cosine for each in rows):.6f}"]


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--provider", default=onnx_runner.providers()[0])
    arguments.add_argument("--models", nargs="+", default=["resnet50", "mobilenet_v2", "vit_b_16", "bert_base"])
    arguments.add_argument("--output", type=Path)
    chosen = arguments.parse_args()
    columns = [
        "model", "precision", "ONNX file", "conversion", "absolute", "relative", "cosine",
        "torch's own: relative", "cosine", "tolerated", "verdict",
    ]  # fmt: skip
    failed = False
    lines = ["| " + " | ".join(columns) + " |", "|" + " --- |" * len(columns)]
    for name in chosen.models:
        for precision in ("FP32", "FP16"):
            cells = row(name, precision, chosen.provider)
            failed = failed or cells[-1] != "passed"
            lines.append("| " + " | ".join(cells) + " |")
            print(lines[-1], flush=True)
    text = "\n".join([*heading(chosen.provider), *lines]) + "\n"
    if chosen.output is not None:
        chosen.output.write_text(text)
    print(text)
    sys.exit(int(failed))


def heading(provider: str) -> list[str]:
    import onnxruntime

    versions: dict[str, Any] = {"torch": torch.__version__, "onnxruntime": onnxruntime.__version__}
    device = torch.cuda.get_device_name() if torch.cuda.is_available() and "CUDA" in provider else "the CPU"
    words = ", ".join(f"{name} {version}" for name, version in versions.items())
    return [
        "# Exactness of exports",
        "",
        f"{provider} on {device}; {words}. Against the module in FP32 on the CPU, at batch 1, 7 and {MAX_BATCH_SIZE}:",
        "the largest absolute and relative error and the smallest cosine of all outputs. Random weights. The column of",
        "torch is the module in FP16 on the CPU against itself in FP32: what the precision costs it.",
        "",
    ]


if __name__ == "__main__":
    main()
