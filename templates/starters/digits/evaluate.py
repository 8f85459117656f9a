"""Serves every held-out image as a PNG file, and holds each answer against the same network run right here.

    python evaluate.py [--url 127.0.0.1:8000]

Exit code 1 if a single prediction differs from the offline one, if fewer than 97 % are right, or if the server does
not answer.
"""

from __future__ import annotations

import argparse
import io
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime
import tritonclient.http as triton
from PIL import Image

HERE = Path(__file__).resolve().parent
LEAST_ACCURACY = 0.97
BATCH = 32

Array = npt.NDArray[Any]


def offline(images: Array) -> Array:
    """Probabilities [N,10] of the network, run in this process on the images themselves, without a PNG between."""
    session = onnxruntime.InferenceSession(HERE / "models" / "digits.onnx", providers=["CPUExecutionProvider"])
    (scores,) = session.run(["output"], {"input": images.astype(np.float32)[:, np.newaxis] / np.float32(255)})
    return np.asarray(scores)


def served(images: Array, url: str) -> Array:
    """Probabilities [N,10] from the server: PNG files in batches through the model ``classify``."""
    answers = []
    with triton.InferenceServerClient(url, connection_timeout=10, network_timeout=60) as client:
        for start in range(0, len(images), BATCH):
            files = np.array([[png(image)] for image in images[start : start + BATCH]], dtype=np.object_)
            tensor = triton.InferInput("IMAGE", list(files.shape), "BYTES")
            tensor.set_data_from_numpy(files)
            answers.append(client.infer("classify", [tensor]).as_numpy("SCORES"))
    return np.concatenate(answers)


def png(image: Array) -> bytes:
    """One image [8,8] of bytes as a PNG file."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return file.getvalue()


def compare(answers: Array, here: Array, labels: Array) -> tuple[list[str], bool]:
    """What to print of the served and the offline probabilities [N,10], and whether all is well."""
    served_digits, offline_digits = answers.argmax(axis=1), here.argmax(axis=1)
    served_accuracy = float((served_digits == labels).mean())
    offline_accuracy = float((offline_digits == labels).mean())
    identical = served_digits == offline_digits
    lines = [
        f"image {index}: served {served_digits[index]}, offline {offline_digits[index]}, label {labels[index]}"
        for index in np.flatnonzero(~identical)
    ]
    lines.append(
        f"served accuracy {served_accuracy:.2%}  offline accuracy {offline_accuracy:.2%}  "
        f"identical predictions {identical.sum()}/{len(labels)}  "
        f"largest difference of a probability {np.abs(answers - here).max():.1e}"
    )
    return lines, bool(identical.all()) and served_accuracy >= LEAST_ACCURACY


def main() -> int:
    """Compare; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="127.0.0.1:8000", help="the server's HTTP address (default: %(default)s)")
    url = parser.parse_args().url

    with np.load(HERE / "held_out.npz", allow_pickle=False) as held_out:
        images, labels = held_out["images"], held_out["labels"]
    try:
        answers = served(images, url)
    except (triton.InferenceServerException, OSError) as error:
        print(f"error: {url}: {error}", file=sys.stderr)
        return 1
    lines, well = compare(answers, offline(images), labels)
    print("\n".join(lines))
    return 0 if well else 1


if __name__ == "__main__":
    sys.exit(main())
