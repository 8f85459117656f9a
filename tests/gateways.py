"""What the tests of the gateway share: servers to stand behind it, a real HAProxy, and clients."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import tritonclient.grpc
import tritonclient.http
from serving import ECHO_CONFIG, FREE_PORTS, python_model, up, wait_for
from system_packages import program

from tritonkit.serve import Deployment, ports
from tritonkit.serve.gateway import Backend, GatewayOptions, gateway_process
from tritonkit.serve.haproxy import HaproxySocket, answers
from tritonkit.serve.processes import GatewayCheck, ProcessSpec

# Waits as many seconds as the first number of its input says, then gives back the first two.
WAIT = """
import time
import triton_python_backend_utils as pb_utils
class TritonPythonModel:
    def execute(self, requests):
        arrays = [pb_utils.get_input_tensor_by_name(request, "IN").as_numpy() for request in requests]
        time.sleep(max(float(array[0, 0]) for array in arrays))
        return [pb_utils.InferenceResponse([pb_utils.Tensor("OUT", array[:, :2])]) for array in arrays]
"""
WAIT_CONFIG = ECHO_CONFIG.replace("dims: [2] }]\noutput", "dims: [-1] }]\noutput")
# Answers as often as the second number says, each time after the seconds that the first says.
STREAM = """
import time
import numpy as np
import triton_python_backend_utils as pb_utils
class TritonPythonModel:
    def execute(self, requests):
        for request in requests:
            pause, count = pb_utils.get_input_tensor_by_name(request, "IN").as_numpy()
            sender = request.get_response_sender()
            for number in range(int(count)):
                time.sleep(float(pause))
                answer = pb_utils.Tensor("OUT", np.array([number, count], np.float32))
                sender.send(pb_utils.InferenceResponse([answer]))
            sender.send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
"""
STREAM_CONFIG = ECHO_CONFIG.replace("max_batch_size: 8", "model_transaction_policy { decoupled: true }")
MODELS = {"left": ("one", "both", "stream"), "right": ("both", "another_model")}


@dataclass(frozen=True)
class Gateway:
    """A running gateway."""

    spec: ProcessSpec
    process: subprocess.Popen[bytes]

    @property
    def check(self) -> GatewayCheck:
        assert isinstance(self.spec.check, GatewayCheck)
        return self.spec.check

    @property
    def control(self) -> HaproxySocket:
        return HaproxySocket(self.check.control)

    @property
    def http(self) -> str:
        return self.spec.addresses["http"]

    @property
    def grpc(self) -> str:
        return self.spec.addresses["grpc"]

    def log(self) -> str:
        return self.spec.log.read_text()


@contextmanager
def servers(folder: Path, *, server_args: Sequence[str] = ()) -> Iterator[dict[str, tuple[Backend, Deployment]]]:
    """Two tritonservers with the models of ``MODELS``, by their names."""
    sources = {"stream": (STREAM, STREAM_CONFIG)}
    for server, models in MODELS.items():
        for model in models:
            python_model(folder / server / "models", model, *sources.get(model, (WAIT, WAIT_CONFIG)))
    with (
        up(folder / "left", folder / "left" / "models", server_args=tuple(server_args)) as left,
        up(folder / "right", folder / "right" / "models", server_args=tuple(server_args)) as right,
    ):
        yield {name: (backend(name, one), one) for name, one in {"left": left, "right": right}.items()}


def backend(name: str, deployment: Deployment) -> Backend:
    return Backend(name, deployment.http, deployment.grpc, deployment.metrics, MODELS[name])


def planned(folder: Path, runtime: Path, backends: Sequence[Backend], **options: Any) -> ProcessSpec:
    """The gateway before these servers, on free ports."""
    free = ports.choose("127.0.0.1", FREE_PORTS)
    listening = GatewayOptions(http_port=free["http"], grpc_port=free["grpc"], metrics_port=free["metrics"])
    return gateway_process(
        backends,
        replace(listening, **options),
        program=program("haproxy"),
        project=folder,
        runtime=runtime,
        deployment="0123abcd",
        inherited_env={},
    )


def write(spec: ProcessSpec) -> Path:
    """Write what a process needs before its start; the path of its configuration."""
    for folder in spec.folders:
        folder.path.mkdir(parents=True, exist_ok=True)
        for name, text in folder.files.items():
            (folder.path / name).write_text(text)
    spec.cwd.mkdir(parents=True, exist_ok=True)
    spec.log.parent.mkdir(parents=True, exist_ok=True)
    return Path(spec.argv[-1])


@contextmanager
def gateway(folder: Path, backends: Sequence[Backend], **options: Any) -> Iterator[Gateway]:
    """A gateway for the time of a block."""
    with TemporaryDirectory(prefix="gw-") as runtime:
        spec = planned(folder, Path(runtime), backends, **options)
        write(spec)
        with spec.log.open("ab") as log:
            process = subprocess.Popen(spec.argv, env=dict(spec.env), cwd=spec.cwd, stdout=log, stderr=log)
        with process:
            try:
                running = Gateway(spec, process)
                wait_for(lambda: answers(running.check) or process.poll() is not None)
                assert process.poll() is None, running.log()
                yield running
            finally:
                process.kill()


def certificate(folder: Path) -> tuple[Path, Path]:
    """A certificate of this machine's own, alone, and with its key in a file with a name that needs quotes."""
    alone, key, both = folder / "certificate.pem", folder / "key.pem", folder / "it's both.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
            *("-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"),
            *("-keyout", str(key), "-out", str(alone)),
        ],
        check=True,
        capture_output=True,
    )
    both.touch(mode=0o600)
    both.write_text(alone.read_text() + key.read_text())
    return alone, both


class Clients(ExitStack):
    """Opens Triton's own clients, and closes them all."""

    def http(self, address: str, **options: Any) -> Any:
        options = {"connection_timeout": 30, "network_timeout": 30, **options}
        client = tritonclient.http.InferenceServerClient(address, **options)
        self.callback(client.close)
        return client

    def grpc(self, address: str, **options: Any) -> Any:
        # Every client its own connection: they share one otherwise.
        options = {"channel_args": [("grpc.use_local_subchannel_pool", 1)], **options}
        client = tritonclient.grpc.InferenceServerClient(address, **options)
        self.callback(client.close)
        return client

    def of(self, running: Gateway, protocol: str) -> Any:
        return self.grpc(running.grpc) if protocol == "grpc" else self.http(running.http)


def tensor(module: Any, *numbers: float, length: int = 0) -> list[Any]:
    """The input of one request to the models that wait, ``length`` numbers long."""
    values = np.zeros((1, max(length, len(numbers))), np.float32)
    values[0, : len(numbers)] = numbers
    given = module.InferInput("IN", values.shape, "FP32")
    given.set_data_from_numpy(values)
    return [given]


def infer(client: Any, model: str, *numbers: float, length: int = 2, **options: Any) -> list[float]:
    """The answer of a model that waits."""
    module = tritonclient.grpc if "grpc" in type(client).__module__ else tritonclient.http
    values = tensor(module, *numbers, length=length)
    return list(client.infer(model, values, **options).as_numpy("OUT").reshape(-1))
