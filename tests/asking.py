"""One inference over gRPC, and what the server counted of it, for the tests of the backends."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import tritonclient.grpc as triton
from serving import wait_for


def ask(
    client: triton.InferenceServerClient,
    model: str,
    inputs: Mapping[str, Any],
    datatype: str = "FP32",
    outputs: Sequence[str] = (),
) -> dict[str, Any]:
    """The outputs of one request by name, in the answer's order; all inputs are of one type."""
    tensors = []
    for name, value in inputs.items():
        tensors.append(triton.InferInput(name, list(value.shape), datatype))
        tensors[-1].set_data_from_numpy(value)
    wanted = [triton.InferRequestedOutput(name) for name in outputs] or None
    answer = client.infer(model, tensors, outputs=wanted, client_timeout=20)
    return {tensor.name: answer.as_numpy(tensor.name) for tensor in answer.get_response().outputs}


def counted(client: triton.InferenceServerClient, model: str, rows: int = 0) -> Any:
    """A model's statistics, once batches of so many rows are in them: the server counts after it has answered."""

    def found() -> Any:
        now = client.get_inference_statistics(model).model_stats[0]
        return now if sum(each.batch_size * each.compute_infer.count for each in now.batch_stats) >= rows else None

    return wait_for(found)
