"""One request to a real server, over both protocols."""

from __future__ import annotations

import math
import socket
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from serving import ECHO, python_model, up

from tritonkit.client.endpoint import Addresses, Endpoint, Protocol
from tritonkit.client.inference import Answer, Class, infer, plain
from tritonkit.client.signature import Tensor, signature
from tritonkit.client.tensors import collect
from tritonkit.errors import RequestFailed, UsageError
from tritonkit.serve import Deployment

PROTOCOLS: list[Protocol] = ["http", "grpc"]


def ask(deployment: Deployment, model: str, given: dict[str, str], **options: Any) -> list[Answer]:
    server = Addresses(deployment.http, deployment.grpc)
    known = signature(Endpoint(server.http), model)
    return infer(server, known, collect(known, given), **options)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_every_kind_of_value_arrives_as_it_was_given(measured_server: Deployment, protocol: Protocol) -> None:
    given = {
        "B": "[true, false]",
        "U8": "[0, 255]",
        "I64": "[-5, 6, 7]",
        "F16": "[[0.5, 1], [2, 3]]",
        "S": '["a", "\u00e9"]',
    }
    (answer,) = ask(measured_server, "types", given, protocol=protocol)
    assert (answer.name, answer.datatype, answer.shape) == ("SAID", "BYTES", (5,))
    assert plain(answer.values) == [
        "B bool [True, False]",
        "U8 uint8 [0, 255]",
        "I64 int64 [-5, 6, 7]",
        "F16 float16 [[0.5, 1.0], [2.0, 3.0]]",
        "S object [b'a', b'\\xc3\\xa9']",
    ]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_classes_have_labels(measured_server: Deployment, protocol: Protocol) -> None:
    (answer,) = ask(measured_server, "add", {"X": "[[1, 9, 3, 0], [4, 0, 0, 1]]"}, protocol=protocol, classes=2)
    assert answer.classes == (
        (Class(1, "one", 10.0), Class(2, "two", 4.0)),
        (Class(0, "zero", 5.0), Class(3, "three", 2.0)),
    )


def test_classes_of_a_model_without_labels_or_a_batch(measured_server: Deployment) -> None:
    (answer,) = ask(measured_server, "moody", {"X": "[7]"}, classes=1)
    assert answer.classes == ((Class(0, "", 7.0),),)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_refusal_in_the_models_own_words(measured_server: Deployment, protocol: Protocol) -> None:
    with pytest.raises(RequestFailed, match="model 'image' refused the request: not an image"):
        ask(measured_server, "image", {"IMAGE": "hello"}, protocol=protocol)


def test_a_model_that_calls_one_of_another_server(tmp_path: Path) -> None:
    calls = """
        called = pb_utils.InferenceRequest(
            model_name="large", requested_output_names=["OUT"], inputs=[requests[0].inputs()[0]]
        ).exec()
        if called.has_error():
            return [pb_utils.InferenceResponse(error=pb_utils.TritonError(called.error().message()))]
        return"""
    repository = python_model(tmp_path / "models", "router", ECHO.replace("\n        return", calls))
    with up(tmp_path, repository) as deployment:
        for protocol in PROTOCOLS:
            with pytest.raises(RequestFailed, match="Model 'large' is not ready") as caught:
                ask(deployment, "router", {"IN": "[1, 2]"}, protocol=protocol)
            assert "'router' calls 'large', which its server does not have ready" in str(caught.value.hint)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_slow_answer(measured_server: Deployment, protocol: Protocol) -> None:
    with pytest.raises(RequestFailed, match=r"model 'moody' gave no answer within 0\.005 s[\s\S]*--timeout"):
        ask(measured_server, "moody", {"X": "[-4]"}, protocol=protocol, timeout=0.005)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_no_server(measured_server: Deployment, protocol: Protocol) -> None:
    known = signature(Endpoint(measured_server.http), "add")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(RequestFailed, match=rf"no server can be reached at {address}[\s\S]*tritonkit up"):
            infer(Addresses(address, address), known, collect(known, {"X": "[1, 2, 3, 4]"}), protocol=protocol)


def test_signatures(measured_server: Deployment) -> None:
    endpoint = Endpoint(measured_server.http)
    add = signature(endpoint, "add", "1")
    assert add.inputs == (Tensor("X", "FP32", (4,)),)
    assert add.outputs == (Tensor("Y", "FP32", (4,), labels=True),)
    assert (add.max_batch_size, add.members, add.versions) == (8, (), ("1",))
    assert signature(endpoint, "twice").members == ("add", "add")
    # In place of an ensemble there stand its own members.
    assert signature(endpoint, "nested").members == ("add", "add")
    types = signature(endpoint, "types")
    assert [str(tensor) for tensor in types.inputs] == ["BOOL[2]", "UINT8[2]", "INT64[-1]", "FP16[2,2]", "BYTES[2]"]


def test_an_unknown_model_or_version(measured_server: Deployment) -> None:
    endpoint = Endpoint(measured_server.http)
    with pytest.raises(UsageError, match=r"has no model 'ad'; did you mean 'add'\?"):
        signature(endpoint, "ad")
    with pytest.raises(UsageError, match=r"has no model 'zzz'; known: add, image, "):
        signature(endpoint, "zzz")
    with pytest.raises(UsageError, match=r"model 'add' has no version 7\. It has: 1\."):
        signature(endpoint, "add", "7")


def test_what_json_has_no_word_for() -> None:
    assert plain(np.array([math.nan, math.inf, -math.inf, 1], dtype=np.float32)) == [
        "NaN",
        "Infinity",
        "-Infinity",
        1.0,
    ]
    assert plain(np.array([b"\xff", b"a"], dtype=object)) == [{"b64": "/w=="}, "a"]


def test_without_classes_values_come(measured_server: Deployment) -> None:
    (answer,) = ask(measured_server, "add", {"X": "[1, 2, 3, 4]"})
    assert answer.classes is None
    assert answer.values.tolist() == [[2, 3, 4, 5]]
