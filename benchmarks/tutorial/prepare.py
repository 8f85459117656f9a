"""What the tutorial's studies measure: networks, requests and pictures, made in ``build/``.

Run from the root of the repository, with torch, onnx and onnxscript installed::

    python benchmarks/tutorial/prepare.py digits     # the digits starter's network: small, for a CPU
    python benchmarks/tutorial/prepare.py food       # inverted residual blocks as in MobileNetV2, 11 classes, 224 x 224

Weights are random and seeded, except for the starter's ONNX file: what is measured is time, not accuracy.
"""

from __future__ import annotations

import base64
import importlib.util
import io
import json
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
STARTER = HERE.parent.parent / "templates/starters/digits"
CLASSES = 11
# Of MobileNetV2: expansion, channels, blocks, stride of the first block.
BLOCKS = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))


def main(name: str) -> None:
    import torch

    torch.manual_seed(0)
    folder = HERE / "build" / name
    folder.mkdir(parents=True, exist_ok=True)
    shape = (1, 8, 8) if name == "digits" else (3, 224, 224)
    network = (starter() if name == "digits" else food()).eval()
    example = torch.zeros(2, *shape)
    torch.jit.save(torch.jit.trace(network, example), str(folder / "network.pt"))
    if name == "digits":
        (folder / "network.onnx").write_bytes((STARTER / "models/digits.onnx").read_bytes())
    else:
        torch.onnx.export(
            network, (example,), str(folder / "network.onnx"), input_names=["input"], output_names=["output"],
            dynamic_shapes=({0: torch.export.Dim("batch")},), dynamo=True, external_data=False, verbose=False,
        )  # fmt: skip
    image = base64.b64encode(picture(shape))
    (folder / "image.b64").write_bytes(image)
    (folder / "request.json").write_text(json.dumps({"image": image.decode()}))
    print(f"{folder}: {', '.join(sorted(file.name for file in folder.iterdir()))}")


def starter() -> Any:
    """The network of the digits starter, untrained."""
    spec = importlib.util.spec_from_file_location("train", STARTER / "train.py")
    assert spec is not None
    assert spec.loader is not None
    train = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(train)
    return train.network()


def food() -> Any:
    """A classifier of MobileNetV2's shape."""
    from torch import nn

    def convolution(inside: int, outside: int, size: int = 1, stride: int = 1, groups: int = 1) -> list[Any]:
        kernel = nn.Conv2d(inside, outside, size, stride, size // 2, groups=groups, bias=False)
        return [kernel, nn.BatchNorm2d(outside), nn.ReLU6()]

    class Block(nn.Module):
        def __init__(self, inside: int, outside: int, stride: int, expansion: int) -> None:
            super().__init__()
            wide = inside * expansion
            layers = convolution(inside, wide) if expansion > 1 else []
            layers += convolution(wide, wide, 3, stride, wide)
            self.layers = nn.Sequential(*layers, *convolution(wide, outside)[:2])
            self.residual = stride == 1 and inside == outside

        def forward(self, x: Any) -> Any:
            return x + self.layers(x) if self.residual else self.layers(x)

    layers: list[Any] = convolution(3, 32, 3, 2)
    channels = 32
    for expansion, outside, count, stride in BLOCKS:
        for index in range(count):
            layers.append(Block(channels, outside, stride if index == 0 else 1, expansion))
            channels = outside
    layers += [*convolution(channels, 1280), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1280, CLASSES)]
    return nn.Sequential(*layers)


def picture(shape: tuple[int, int, int]) -> bytes:
    """A picture of the network's size: JPEG, or PNG where it is tiny."""
    import numpy as np
    from PIL import Image

    values = np.random.default_rng(0).integers(0, 255, (shape[1] // 8, shape[2] // 8, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(values).resize(shape[1:]).save(buffer, "PNG" if shape[1] < 32 else "JPEG")
    return buffer.getvalue()


if __name__ == "__main__":
    main(sys.argv[1])
