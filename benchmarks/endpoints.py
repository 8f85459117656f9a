"""What people serve a model with before they know Triton: FastAPI, as the tutorials write it, and lean.

``MODEL`` names the ONNX file, ``THREADS`` the threads of one worker. Run by ``backends_cpu.py`` under uvicorn.
"""

from __future__ import annotations

import base64
import os
from typing import Any

import fastapi
import numpy as np
import onnxruntime

options = onnxruntime.SessionOptions()
options.intra_op_num_threads = int(os.environ["THREADS"])
session = onnxruntime.InferenceSession(os.environ["MODEL"], options, providers=["CPUExecutionProvider"])
SHAPE = tuple(session.get_inputs()[0].shape[1:])
TYPE = np.float32 if session.get_inputs()[0].type == "tensor(float)" else np.uint8
app = fastapi.FastAPI()


def tutorial(body: dict[str, Any]) -> dict[str, Any]:
    image = np.frombuffer(base64.b64decode(body["image"]), TYPE).reshape(1, *SHAPE)
    return {"scores": session.run(None, {"input": image})[0].tolist()}


async def lean(request: fastapi.Request) -> fastapi.Response:
    image = np.frombuffer(await request.body(), TYPE).reshape(1, *SHAPE)
    return fastapi.Response(session.run(None, {"input": image})[0].tobytes(), media_type="application/octet-stream")


app.add_api_route("/tutorial", tutorial, methods=["POST"])
app.add_route("/lean", lean, methods=["POST"])
