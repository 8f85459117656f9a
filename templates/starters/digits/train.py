"""Trains the network in models/digits.onnx, and writes the held-out images that evaluate.py serves.

    pip install "tritonkit[export]" scikit-learn
    python train.py

The data are the 1,797 handwritten digits that come with scikit-learn. 360 of them, the same at every run and with
the same share of each digit, are kept out of the training. Seeds are fixed: one machine makes the same network
every time.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

HERE = Path(__file__).resolve().parent
MODEL = HERE / "models" / "digits.onnx"
HELD_OUT = HERE / "held_out.npz"
SAMPLES = HERE / "samples"
SEED = 0
EPOCHS = 80

Array = npt.NDArray[Any]


def split() -> tuple[Array, Array, Array, Array]:
    """Training images, held-out images, training labels and held-out labels.

    Images are bytes [N,8,8] from 0 (paper) to 255 (ink). scikit-learn's own values go from 0 to 16; they are brought
    to bytes before anything else, so that a PNG file holds exactly what the network is trained on and measured with.
    """
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    images = np.rint(digits.images * (255 / 16)).astype(np.uint8)
    labels = digits.target.astype(np.uint8)
    parts = train_test_split(images, labels, test_size=360, stratify=labels, random_state=SEED)
    return parts[0], parts[1], parts[2], parts[3]


def network() -> Any:
    """The untrained network: FP32 [N,1,8,8] from 0 to 1, to one raw score for each digit [N,10]."""
    from torch import nn

    def block(inputs: int, outputs: int) -> list[nn.Module]:
        return [nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU()]

    return nn.Sequential(
        *block(1, 16),
        *block(16, 32),
        nn.MaxPool2d(2),
        *block(32, 64),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Dropout(0.3),
        nn.Linear(64 * 2 * 2, 10),
    )


def train(images: Array, labels: Array) -> Any:
    """The network, trained on images that are turned, scaled and shifted a little at every pass."""
    import torch
    from torch.nn import functional

    torch.manual_seed(SEED)
    torch.use_deterministic_algorithms(True)
    # The order of a sum depends on the number of threads; one makes the result depend on the seed alone.
    torch.set_num_threads(1)
    model = network()
    inputs = torch.from_numpy(tensor(images))
    targets = torch.from_numpy(labels.astype(np.int64))
    batches = -(-len(inputs) // 64)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=3e-3, total_steps=EPOCHS * batches)
    model.train()
    for epoch in range(EPOCHS):
        total = 0.0
        for chosen in torch.randperm(len(inputs)).split(64):
            loss = functional.cross_entropy(model(moved(inputs[chosen])), targets[chosen], label_smoothing=0.05)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item() * len(chosen)
        if epoch % 10 == 9:
            print(f"epoch {epoch + 1}/{EPOCHS}: loss {total / len(inputs):.4f}")
    return model.eval()


def moved(images: Any) -> Any:
    """The images, each turned by up to 12 degrees, scaled by up to 12 % and shifted by up to 0.6 pixels."""
    import torch
    from torch.nn import functional

    count = len(images)
    angle = (torch.rand(count) * 2 - 1) * 0.21
    scale = 1 + (torch.rand(count) * 2 - 1) * 0.12
    shift = (torch.rand(count, 2) * 2 - 1) * 0.15
    rows = [
        torch.stack([angle.cos() * scale, -angle.sin() * scale, shift[:, 0]], dim=1),
        torch.stack([angle.sin() * scale, angle.cos() * scale, shift[:, 1]], dim=1),
    ]
    grid = functional.affine_grid(torch.stack(rows, dim=1), list(images.shape), align_corners=False)
    return functional.grid_sample(images, grid, align_corners=False)


def tensor(images: Array) -> Array:
    """Bytes [N,8,8] as the network's input: FP32 [N,1,8,8] from 0 to 1."""
    return images.astype(np.float32)[:, np.newaxis] / np.float32(255)


def export(model: Any, path: Path) -> None:
    """Write the network as ONNX: ``input`` FP32 [batch,1,8,8], ``output`` FP32 [batch,10], probabilities.

    Softmax goes into the file, so that a client reads probabilities and not raw scores.
    """
    import onnx
    import torch

    whole = torch.nn.Sequential(model, torch.nn.Softmax(dim=1)).eval()
    program = torch.onnx.export(
        whole,
        (torch.zeros(2, 1, 8, 8),),
        input_names=["input"],
        output_names=["output"],
        dynamic_shapes=({0: torch.export.Dim("batch")},),
        opset_version=18,
        dynamo=True,
        verbose=False,
    )
    proto = program.model_proto
    strip(proto)
    onnx.checker.check_model(proto, full_check=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(proto.SerializeToString(deterministic=True))


def strip(proto: Any) -> None:
    """Take out what the exporter notes for its own debugging, stack traces with this machine's paths among it."""
    graph = proto.graph
    del graph.value_info[:]
    for item in (proto, graph, *graph.node, *graph.input, *graph.output, *graph.initializer):
        item.ClearField("metadata_props")
        item.ClearField("doc_string")


def png(image: Array) -> bytes:
    """One image [8,8] of bytes as a PNG file."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG", optimize=True)
    return file.getvalue()


def main() -> None:
    """Train, export, and write the held-out images and one sample of each digit."""
    import onnxruntime

    train_images, images, train_labels, labels = split()
    export(train(train_images, train_labels), MODEL)
    session = onnxruntime.InferenceSession(MODEL, providers=["CPUExecutionProvider"])
    (scores,) = session.run(["output"], {"input": tensor(images)})
    right = int((np.asarray(scores).argmax(axis=1) == labels).sum())

    np.savez_compressed(HELD_OUT, images=images, labels=labels)
    SAMPLES.mkdir(exist_ok=True)
    for digit in range(10):
        (SAMPLES / f"{digit}.png").write_bytes(png(images[labels == digit][0]))
    print(f"{MODEL.name}, {MODEL.stat().st_size:,} bytes: {right} of {len(labels)} held-out images right")


if __name__ == "__main__":
    main()
