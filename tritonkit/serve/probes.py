"""Requests that see whether the models of a server still answer, where somebody asked for them.

Nothing but an inference reaches a model's own process, so one that hangs (a deadlock, an endless loop) can be told
in no other way. A probe is a request of zeros: whatever the model answers, an error included, it is alive. Only one
that answers nothing in time, while no other request to the model is finished either, is a fault: a model may also be
slow, or its queue long. Models whose requests belong together (``sequence_batching``) are left alone, since a probe
would become part of a sequence, and so are ensembles, whose members are asked.
"""

from __future__ import annotations

import http.client
import json
import math
import threading
from collections.abc import Sequence
from typing import Any

from tritonkit.client.endpoint import Endpoint, parse_address
from tritonkit.errors import RequestFailed

_SIZES = {1: ("BOOL", "INT8", "UINT8"), 2: ("INT16", "UINT16", "FP16", "BF16"), 8: ("INT64", "UINT64", "FP64")}
_BYTES = {datatype: size for size, datatypes in _SIZES.items() for datatype in datatypes}
# What the others take, and the length that stands before each string: one of length 0 is four zero bytes.
_OTHER_BYTES = 4


class Prober:
    """Sends each model of one server a request of zeros every so often, in a thread of its own."""

    def __init__(self, address: str, models: Sequence[str], period: float) -> None:
        """Begin.

        Args:
            address: the server's own HTTP address.
            models: the models to ask.
            period: seconds from one round of probes to the next, and those that a model has for an answer.
        """
        self._endpoint = Endpoint(address, timeout=period)
        self._models = models
        self._period = period
        self._fault: str | None = None
        self._closed = threading.Event()
        threading.Thread(target=self._run, daemon=True).start()

    def fault(self) -> str | None:
        """Which model does not answer, in words that follow the server's name; None while all do."""
        return self._fault

    def close(self) -> None:
        """Send no more; a request that is under way is not waited for."""
        self._closed.set()

    def _run(self) -> None:
        requests: dict[str, tuple[bytes, int]] = {}
        while self._fault is None and not self._closed.wait(self._period):
            for model in self._models:
                try:
                    request = requests.get(model) or zeros(self._endpoint, model)
                    if request is None:
                        continue
                    requests[model] = request
                    before = self._finished(model)
                    if not self._answered(model, request) and self._finished(model) == before:
                        self._fault = (
                            f"has a model that does not answer: {model} finished nothing in {self._period:g} s"
                        )
                        return
                except RequestFailed:
                    # The server itself does not answer, or knows no such model now: that is for others to judge.
                    continue

    def _answered(self, model: str, request: tuple[bytes, int]) -> bool:
        body, header = request
        host, port = parse_address(self._endpoint.address)
        connection = http.client.HTTPConnection(host, port, timeout=self._period)
        try:
            length = {"Inference-Header-Content-Length": str(header)}
            connection.request("POST", f"/v2/models/{model}/infer", body=body, headers=length)
            connection.getresponse().read()
        except TimeoutError:
            return False
        except (OSError, http.client.HTTPException):
            # It closed the connection: it is ending, or overloaded, and not mute.
            return True
        finally:
            connection.close()
        return True

    def _finished(self, model: str) -> list[tuple[int, int]]:
        stats: list[dict[str, Any]] = self._endpoint.statistics(model)["model_stats"]
        counts = [entry.get("inference_stats", {}) for entry in stats]
        return [(count.get("success", {}).get("count", 0), count.get("fail", {}).get("count", 0)) for count in counts]


def zeros(endpoint: Endpoint, model: str) -> tuple[bytes, int] | None:
    """The body of a request of zeros to a model, and how long its JSON is; None where none may be sent.

    Raises:
        RequestFailed: the server does not describe the model.
    """
    config = endpoint.config(model)
    if "sequence_batching" in config or "ensemble_scheduling" in config:
        return None
    inputs = []
    size = 0
    for tensor in endpoint.metadata(model)["inputs"]:
        shape = [max(1, int(dimension)) for dimension in tensor["shape"]]
        data = math.prod(shape) * _BYTES.get(tensor["datatype"], _OTHER_BYTES)
        size += data
        inputs.append(
            {
                "name": tensor["name"],
                "datatype": tensor["datatype"],
                "shape": shape,
                "parameters": {"binary_data_size": data},
            }
        )
    header = json.dumps({"inputs": inputs, "parameters": {"binary_data_output": True}}).encode()
    return header + bytes(size), len(header)
