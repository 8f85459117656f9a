"""One inference, over HTTP or gRPC, and its answer as plain values."""

from __future__ import annotations

import base64
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http.client import HTTPException
from typing import Any

import gevent.ssl
import grpc
import numpy as np
import tritonclient.grpc
import tritonclient.http
from tritonclient.utils import InferenceServerException

from tritonkit.client.access import Access, certified_names
from tritonkit.client.endpoint import Addresses, Protocol, parse_address, token_hint, unreachable
from tritonkit.client.signature import Signature, Tensor
from tritonkit.client.values import Array
from tritonkit.errors import RequestFailed

# As tritonclient has it by default, and without a proxy: over HTTP none is used either.
_UNLIMITED = 2**31 - 1
# Triton's words to a Python model that calls another one (BLS).
_NOT_CALLABLE = re.compile(r"Failed for execute the inference request\. Model '(.+?)' is not ready")
_CHANNEL = [
    ("grpc.max_send_message_length", _UNLIMITED),
    ("grpc.max_receive_message_length", _UNLIMITED),
    ("grpc.enable_http_proxy", 0),
]


@dataclass(frozen=True)
class Class:
    """One entry of a classification.

    Attributes:
        index: the class's place in the output.
        label: its label; empty where the model has none.
        score: its value.
    """

    index: int
    label: str
    score: float


@dataclass(frozen=True)
class Answer:
    """One output.

    Attributes:
        name: its name.
        datatype: Triton's name of its type.
        shape: its shape, with the batch dimension when the model batches.
        values: its elements; BYTES ones are ``bytes``. Empty when classes were asked for.
        classes: for each item of the batch its best classes, best first; None when none were asked for.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]
    values: Array
    classes: tuple[tuple[Class, ...], ...] | None = None


def infer(
    server: Addresses,
    signature: Signature,
    inputs: Mapping[str, Array],
    *,
    version: str = "",
    protocol: Protocol = "http",
    classes: int = 0,
    timeout: float = 60.0,
) -> list[Answer]:
    """Send one request and wait for its answer.

    Args:
        server: where to send it.
        signature: the model.
        inputs: an array for each input, as tritonkit.client.tensors makes them.
        version: the model's version; empty lets the server choose.
        protocol: ``http`` or ``grpc``.
        classes: ask for this many best classes; of the outputs with labels, or of all where none has labels.
        timeout: seconds to wait.

    Raises:
        RequestFailed: the server cannot be reached, does not answer in time, or refuses; in its own words.
    """
    counts = _class_counts(signature.outputs, classes)
    address = server.grpc if protocol == "grpc" else server.http
    tensors = {tensor.name: tensor for tensor in signature.inputs}
    given = [(tensors[name], array) for name, array in inputs.items()]
    try:
        arrays = _ask(protocol, address, server.access, timeout, signature.model, version, given, counts)
    except (InferenceServerException, OSError, HTTPException) as error:
        raise _failure(signature.model, address, error, timeout) from error
    return [
        Answer(
            name=tensor.name,
            datatype=tensor.datatype,
            shape=arrays[tensor.name].shape,
            values=arrays[tensor.name],
            classes=_classes(arrays[tensor.name]) if counts[tensor.name] else None,
        )
        for tensor in signature.outputs
        if tensor.name in arrays
    ]


def plain(values: Array) -> Any:
    """An array as nested lists that JSON can hold.

    BYTES elements are text where they are UTF-8, else ``{"b64": ...}``. What JSON has no number for is text:
    ``NaN``, ``Infinity``, ``-Infinity``.
    """
    return _plain(values.tolist())


def _class_counts(outputs: Sequence[Tensor], classes: int) -> dict[str, int]:
    some_labelled = any(output.labels for output in outputs)
    return {output.name: classes if output.labels or not some_labelled else 0 for output in outputs}


def _ask(
    protocol: Protocol,
    address: str,
    access: Access,
    timeout: float,
    model: str,
    version: str,
    given: Sequence[tuple[Tensor, Array]],
    counts: Mapping[str, int],
) -> dict[str, Array]:
    """Outputs by name: the tensors, or for those with a class count Triton's ``score:index:label`` texts."""
    kind: Any = tritonclient.grpc if protocol == "grpc" else tritonclient.http
    inputs = []
    for tensor, array in given:
        inputs.append(kind.InferInput(tensor.name, list(array.shape), tensor.datatype))
        inputs[-1].set_data_from_numpy(np.ascontiguousarray(array))
    outputs = [kind.InferRequestedOutput(name, class_count=count) for name, count in counts.items()]
    request: dict[str, Any] = {"model_name": model, "inputs": inputs, "model_version": version, "outputs": outputs}
    request["headers"] = access.headers
    if protocol == "grpc":
        client = kind.InferenceServerClient(address, **_channel(address, access))
        request["client_timeout"] = timeout
    else:
        client = kind.InferenceServerClient(
            address, connection_timeout=timeout, network_timeout=timeout, **_transport(access)
        )
    try:
        result = client.infer(**request)
        arrays = {name: result.as_numpy(name) for name in counts}
    finally:
        client.close()
    return {name: array for name, array in arrays.items() if array is not None}


def _channel(address: str, access: Access) -> dict[str, Any]:
    if access.tls is None:
        return {"channel_args": _CHANNEL}
    roots = access.tls.roots()
    credentials = grpc.ssl_channel_credentials(roots.encode() if roots else None)
    names: list[tuple[str, str]] = []
    if access.tls.own:
        # gRPC always compares names; that of a certificate which is trusted for itself says nothing more.
        names = [
            ("grpc.ssl_target_name_override", name) for name in certified_names(*parse_address(address), access.tls)
        ]
    return {"channel_args": [*_CHANNEL, *names[:1]], "creds": credentials}


def _transport(access: Access) -> dict[str, Any]:
    tls = access.tls
    if tls is None:
        return {}

    def context(cafile: None) -> gevent.ssl.SSLContext:  # noqa: ARG001 - the client hands it over by name
        return tls.context(gevent.ssl.SSLContext)

    # In this form the client adds nobody to those that are trusted.
    return {
        "ssl": True,
        "ssl_options": {"ca_certs": None},
        "ssl_context_factory": context,
        "insecure": tls.own,
    }


def _classes(values: Array) -> tuple[tuple[Class, ...], ...]:
    rows = values.reshape((-1, values.shape[-1])) if values.ndim > 1 else values[np.newaxis]
    return tuple(tuple(_class(text) for text in row) for row in rows)


def _class(text: bytes) -> Class:
    score, index, label = (*text.decode(errors="replace").split(":", 2), "")[:3]
    return Class(index=int(index), label=label, score=float(score))


def _failure(model: str, address: str, error: Exception, timeout: float) -> RequestFailed:
    status = error.status() if isinstance(error, InferenceServerException) else None
    if isinstance(error, TimeoutError) or status == "StatusCode.DEADLINE_EXCEEDED":
        return RequestFailed(
            f"{address}: model {model!r} gave no answer within {timeout:g} s",
            hint="Allow more with --timeout, or see what the server does: tritonkit logs",
        )
    if not isinstance(error, InferenceServerException):
        return unreachable(address, error)
    if status == "StatusCode.UNAVAILABLE":
        return unreachable(address, ConnectionError(error.message()))
    words = str(error.message())
    called = _NOT_CALLABLE.search(words)
    hint = token_hint(status)
    if called is not None:
        hint = f"{model!r} calls {called[1]!r}, which its server does not have ready: name both in one of `servers`."
    return RequestFailed(f"{address}: model {model!r} refused the request: {words}", hint=hint)


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return [_plain(element) for element in value]
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            return {"b64": base64.b64encode(value).decode()}
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else ("Infinity" if value > 0 else "-Infinity")
    return value
