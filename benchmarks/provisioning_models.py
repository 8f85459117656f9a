"""The networks of ``provisioning_gpu.py`` as ONNX files, with random weights: images are bytes, tokens whole numbers.

python benchmarks/provisioning_models.py resnet50 resnet50.onnx
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, TypeAlias

import torch

IMAGE, TOKENS, OPSET = 224, 128, 17

Step: TypeAlias = "Callable[[Any], torch.Tensor]"


class Prepared(torch.nn.Module):  # type: ignore[misc]
    """A network with what comes before and after it."""

    def __init__(self, before: Step, network: torch.nn.Module, after: Step) -> None:
        super().__init__()
        self.before, self.network, self.after = before, network, after

    def forward(self, given: torch.Tensor) -> torch.Tensor:
        """The answers to a batch."""
        return self.after(self.network(self.before(given)))


def scaled(image: torch.Tensor) -> torch.Tensor:
    """Bytes to numbers from -1 to 1: clients send a quarter of what they would send as floating point numbers."""
    return image.to(torch.float32) / 127.5 - 1


def pooled(answer: Any) -> torch.Tensor:
    """What a transformer of the Hugging Face library says of the whole input."""
    return answer.pooler_output


def network(name: str) -> tuple[torch.nn.Module, torch.Tensor]:
    """A network, and an example of its input."""
    torch.manual_seed(0)
    if name == "bert_base":
        from transformers import BertConfig, BertModel

        example = torch.randint(1000, 30_000, (2, TOKENS), dtype=torch.int32)
        return Prepared(torch.Tensor.long, BertModel(BertConfig(attn_implementation="eager")), pooled), example
    example = torch.randint(0, 255, (2, 3, IMAGE, IMAGE), dtype=torch.uint8)
    if name == "vit_b_16":
        from transformers import ViTConfig, ViTModel

        return Prepared(scaled, ViTModel(ViTConfig(attn_implementation="eager")), pooled), example
    import torchvision

    return Prepared(scaled, getattr(torchvision.models, name)(weights=None), torch.nn.Identity()), example


def main() -> None:
    name, file = sys.argv[1:]
    module, example = network(name)
    given, answer = ("tokens", "pooled") if name == "bert_base" else ("image", "scores")
    torch.onnx.export(
        module.eval(), (example,), file, input_names=[given], output_names=[answer],
        dynamic_axes={given: {0: "batch"}, answer: {0: "batch"}}, opset_version=OPSET, dynamo=False,
    )  # fmt: skip


if __name__ == "__main__":
    main()
