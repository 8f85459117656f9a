"""Factories of torch modules, which tests copy into the folder of a spec."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


class Cnn(nn.Module):
    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, width, 3)
        self.linear = nn.Linear(width, 10)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        features = self.convolution(image).relu().mean((2, 3))
        return self.linear(features)


class TwoByTwo(nn.Module):
    def forward(self, left: torch.Tensor, right: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"sum": left + right.to(left.dtype), "largest": left.argmax(1)}


class Wrong(Cnn):
    """Exported, it computes something else than it computes itself. An offset of weights costs it their last digits."""

    def __init__(self, how: str, offset: float) -> None:
        super().__init__()
        self.how = how
        self.linear.weight.data += offset
        self.square = nn.Linear(4, 4)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        exporting = torch.compiler.is_exporting()
        features = self.convolution(image)
        if not (exporting and self.how == "dropped activation"):
            features = features.relu()
        features = features.mean((2, 3))
        weight = self.square.weight
        if exporting and self.how == "transposed weight":
            weight = weight.T
        features = nn.functional.linear(features, weight)
        if exporting and self.how == "baked-in batch":
            features = features[:1].expand(image.shape[0], -1)
        # They sum to zero, so that the offset falls out.
        return self.linear(features - features.mean(1, keepdim=True))


def cnn(width: int = 4) -> nn.Module:
    return Cnn(width)


def two_by_two() -> nn.Module:
    return TwoByTwo()


def wrong(how: str, offset: float = 0.0) -> nn.Module:
    return Wrong(how, offset)


def transformer() -> nn.Module:
    from transformers import BertConfig, BertModel

    config = BertConfig(
        vocab_size=100, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64
    )
    return BertModel(config)


def raises() -> nn.Module:
    raise RuntimeError("the checkpoint is from another planet")


def no_module() -> Any:
    return {"weights": 3}


def leaves() -> nn.Module:
    import os

    os._exit(7)


class Fixed(nn.Module):
    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return torch.stack([row.sum() for row in image])


def fixed() -> nn.Module:
    return Fixed()


class Endless(nn.Module):
    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return image.sum((1, 2, 3)) / 0.0 * 0.0


def not_a_number() -> nn.Module:
    return Endless()
