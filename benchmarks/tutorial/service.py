"""The baselines of the tutorial: the same pictures and networks behind FastAPI, with PyTorch and with onnxruntime.

``NETWORK`` names the folder with the network, ``SHAPE`` its input. Started by the studies, under uvicorn.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import fastapi
import numpy as np

sys.path.insert(0, str(Path(__file__).parent / "classifier"))
from pictures import batch

FOLDER = Path(__file__).parent / os.environ["NETWORK"]
SHAPE = json.loads(os.environ["SHAPE"])


def with_torch() -> Any:
    """The network in PyTorch, on a GPU if there is one."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    network = torch.jit.load(str(FOLDER / "network.pt"), map_location=device)

    def scores(values: Any) -> Any:
        with torch.inference_mode():
            return network(torch.from_numpy(values).to(device)).softmax(dim=1).cpu().numpy()

    return scores


def with_onnx() -> Any:
    """The network in onnxruntime, on a GPU if it can."""
    import onnxruntime

    session = onnxruntime.InferenceSession(
        str(FOLDER / "network.onnx"), providers=onnxruntime.get_available_providers()
    )

    def scores(values: Any) -> Any:
        return session.run(None, {"input": values})[0]

    return scores


app = fastapi.FastAPI()
compute = with_torch() if os.environ["ENGINE"] == "torch" else with_onnx()


def predict(body: dict[str, str]) -> dict[str, Any]:
    """Answer one picture; one that cannot be decoded is the client's fault, and is told so."""
    try:
        values = batch([body["image"]], SHAPE)
    except ValueError as error:
        raise fastapi.HTTPException(400, str(error)) from error
    found = np.asarray(compute(values))[0]
    return {"label": str(int(found.argmax())), "score": float(found.max())}


def ready() -> dict[str, str]:
    """Say that the network is loaded."""
    return {"network": str(FOLDER)}


app.add_api_route("/predict", predict, methods=["POST"])
app.add_api_route("/ready", ready, methods=["GET"])
