"""Requests to a Triton model with one input and one output, as bytes; the tensors inside, or in shared memory."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from multiprocessing.shared_memory import SharedMemory
from typing import Any, NamedTuple

import numpy as np
import tritonclient.grpc
from clients import http
from tritonclient.grpc import service_pb2
from tritonclient.utils import serialize_byte_tensor

NAMES = {"float32": "FP32", "uint8": "UINT8"}


class Regions(NamedTuple):
    """One client's shared memory, by the names that the server knows: its image, and room for its scores."""

    image: str
    scores: str
    memory: SharedMemory

    def read(self) -> Any:
        """The scores that lie there; they are gone afterwards."""
        scores: Any = np.ndarray(self.memory.size // 4, np.float32, self.memory.buf)
        found = scores.copy()
        scores.fill(np.nan)
        return found


@contextmanager
def shared_memory(address: str, image: Any, scores: int, clients: int) -> Iterator[list[Regions]]:
    """Regions for so many clients, with the image and room for ``scores`` bytes; a server's gRPC is told."""
    server = tritonclient.grpc.InferenceServerClient(address)
    with ExitStack() as stack:

        def region(size: int) -> SharedMemory:
            memory = SharedMemory(create=True, size=size)
            stack.callback(memory.unlink)
            stack.callback(memory.close)
            server.register_system_shared_memory(memory.name, f"/{memory.name}", size)
            stack.callback(server.unregister_system_shared_memory, memory.name)
            return memory

        found = []
        for _ in range(clients):
            given, wanted = region(image.nbytes), region(scores)
            np.ndarray(image.shape, image.dtype, given.buf)[:] = image
            found.append(Regions(given.name, wanted.name, wanted))
        yield found


def http_request(model: str, image: Any, regions: Regions | None = None) -> bytes:
    """A POST of one inference, in Triton's binary form."""
    given: dict[str, Any] = {"binary_data_size": image.nbytes}
    wanted: dict[str, Any] = {"binary_data": True}
    if regions:
        given = {"shared_memory_region": regions.image, "shared_memory_byte_size": image.nbytes}
        wanted = {"shared_memory_region": regions.scores, "shared_memory_byte_size": regions.memory.size}
    head = json.dumps(
        {
            "inputs": [
                {"name": "input", "shape": image.shape, "datatype": NAMES[image.dtype.name], "parameters": given}
            ],
            "outputs": [{"name": "output", "parameters": wanted}],
        }
    ).encode()
    body = head if regions else head + image.tobytes()
    return http(f"/v2/models/{model}/infer", body, Inference_Header_Content_Length=str(len(head)))


def grpc_message(model: str, image: Any, regions: Regions | None = None) -> bytes:
    """A ModelInferRequest of one inference."""
    message = service_pb2.ModelInferRequest(model_name=model)
    given = message.inputs.add(name="input", datatype=NAMES[image.dtype.name], shape=image.shape)
    wanted = message.outputs.add(name="output")
    if regions:
        for tensor, region, size in (
            (given, regions.image, image.nbytes),
            (wanted, regions.scores, regions.memory.size),
        ):
            tensor.parameters["shared_memory_region"].string_param = region
            tensor.parameters["shared_memory_byte_size"].int64_param = size
    else:
        message.raw_input_contents.append(image.tobytes())
    return bytes(message.SerializeToString())


def grpc_tensors(model: str, inputs: Mapping[str, tuple[Any, str]]) -> bytes:
    """A ModelInferRequest of any inputs: each one's value and Triton's name of its type."""
    message = service_pb2.ModelInferRequest(model_name=model)
    for name, (value, datatype) in inputs.items():
        message.inputs.add(name=name, datatype=datatype, shape=value.shape)
        message.raw_input_contents.append(
            serialize_byte_tensor(value).item() if datatype == "BYTES" else value.tobytes()
        )
    return bytes(message.SerializeToString())


def http_scores(body: bytes) -> Any:
    """The output in an HTTP answer: what follows its JSON."""
    return np.frombuffer(body[body.rindex(b"}") + 1 :], np.float32)


def grpc_scores(body: bytes) -> Any:
    """The output in a ModelInferResponse."""
    return np.frombuffer(service_pb2.ModelInferResponse.FromString(body).raw_output_contents[0], np.float32)
