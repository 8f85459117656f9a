"""``tritonkit top``: figures of real servers, what hangs or is missing, and the terminal before, during and after."""

from __future__ import annotations

import fcntl
import io
import json
import os
import pty
import select
import signal
import socket
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyte
import pytest
from gpu_machine import pretend
from rich.console import Console
from serving import PROGRAM, echo_repository, python_model, tritonkit, up, wait_for

from tritonkit import serve
from tritonkit.cli.top_tables import tables
from tritonkit.client.endpoint import Endpoint
from tritonkit.serve.gpu_load import GpuLoad, GpuMeter
from tritonkit.serve.top import ModelLoad, Sample, Sampler, Target

SLOW = """
import time
import triton_python_backend_utils as pb_utils
class TritonPythonModel:
    def execute(self, requests):
        time.sleep(0.05)
        inputs = [pb_utils.get_input_tensor_by_name(r, "IN") for r in requests]
        if any(float(tensor.as_numpy()[0, 0]) < 0 for tensor in inputs):
            raise ValueError("negative")
        return [pb_utils.InferenceResponse([pb_utils.Tensor("OUT", tensor.as_numpy())]) for tensor in inputs]
"""

# Makes standard input the terminal that Ctrl-C comes from, then becomes another program.
OWN_TERMINAL = """
import fcntl, os, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.argv[1], sys.argv[1:])
"""


@pytest.fixture
def gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Makes NVML tell of GPUs that this machine does not have."""

    def tell(*described: dict[str, object]) -> None:
        pretend(monkeypatch, tmp_path, list(described))

    return tell


def counted(address: str, model: str) -> int:
    """How many requests, answered or refused, are in all of a model's statistics."""
    (version,) = Endpoint(address).statistics(model)["model_stats"]
    ends = version["inference_stats"]
    return int(min(version["execution_count"], ends["success"]["count"] + ends["fail"]["count"]))


def ask(address: str, model: str, rows: int = 1, value: float = 1.0, times: int = 1) -> None:
    """Send requests, one after the other; whether they are answered or refused is the caller's business."""
    import tritonclient.http as triton
    from tritonclient.utils import InferenceServerException

    before = counted(address, model)
    with triton.InferenceServerClient(address) as client:
        tensor = triton.InferInput("IN", [rows, 2], "FP32")
        tensor.set_data_from_numpy(np.full((rows, 2), value, np.float32))
        for _ in range(times):
            try:
                client.infer(model, [tensor])
            except InferenceServerException:
                if value >= 0:
                    raise
    # Triton counts a request after it has answered.
    wait_for(lambda: counted(address, model) >= before + times)


def model(sample: Sample, name: str, server: str | None = None) -> ModelLoad:
    (found,) = [load for load in sample.models if (load.model, load.server) == (name, server)]
    return found


def targets(*deployments: serve.Deployment) -> Callable[[], list[Target]]:
    """The servers of several deployments, as if they were one; named a, b, ..."""
    servers = [server for deployment in deployments for server in deployment.servers]
    return lambda: [
        Target(name, "server", server.http, pid=server.pid) for name, server in zip("abc", servers, strict=False)
    ]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[serve.Deployment, serve.Deployment]]:
    """Two servers; both have ``echo``, one has ``slow``, which fails when asked for something negative."""
    first, second = tmp_path_factory.mktemp("first"), tmp_path_factory.mktemp("second")
    python_model(echo_repository(first / "models"), "slow", SLOW)
    echo_repository(second / "models")
    with up(first, first / "models") as one, up(second, second / "models") as other:
        yield one, other


def test_rates_times_and_batches_are_those_of_the_requests_between_two_samples(
    pair: tuple[serve.Deployment, serve.Deployment],
) -> None:
    one, other = pair
    ask(one.http, "echo", times=3)
    sampler = Sampler(targets(one, other), GpuMeter())
    first = sampler.sample()
    assert (first.seconds, first.models) == (0.0, ())
    ask(one.http, "echo", rows=4, times=10)
    ask(other.http, "echo", rows=1, times=5)
    ask(one.http, "slow", times=4)
    ask(one.http, "slow", value=-1, times=2)
    second = sampler.sample()
    seconds = second.seconds
    assert seconds >= 6 * 0.05

    together = model(second, "echo")
    assert round(together.requests * seconds) == 15
    assert round(together.inferences * seconds) == 45
    assert together.average_batch == pytest.approx(3.0)
    assert round(model(second, "echo", "a").requests * seconds) == 10
    assert round(model(second, "echo", "b").requests * seconds) == 5
    assert model(second, "echo", "a").average_batch == pytest.approx(4.0)

    slow = model(second, "slow")
    assert round(slow.requests * seconds) == 4
    assert round(slow.failures * seconds) == 2
    assert slow.compute is not None
    assert 50 <= slow.compute <= 20_000, "milliseconds"
    assert [load.server for load in second.models if load.model == "slow"] == [None]

    idle = model(sampler.sample(), "slow")
    assert (idle.requests, idle.failures, idle.compute, idle.average_batch) == (0.0, 0.0, None, None)


def test_what_processes_use_counts_their_stubs(pair: tuple[serve.Deployment, serve.Deployment]) -> None:
    sampler = Sampler(targets(*pair), GpuMeter())
    assert [server.cpu for server in sampler.sample().servers] == [None, None]
    time.sleep(0.2)
    loads = sampler.sample().servers
    for load in loads:
        assert load.cpu is not None
        assert 0 <= load.cpu < 100 * (os.cpu_count() or 1) + 50
        # A server alone is below that: its stub holds an interpreter with numpy.
        assert load.resident is not None
        assert load.resident > 60 * 2**20
    assert (loads[0].resident or 0) > (loads[1].resident or 0), "the first server has one stub more"


def test_a_server_that_hangs_or_is_gone_is_a_row_that_says_so(
    pair: tuple[serve.Deployment, serve.Deployment], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tritonkit.serve.top.ANSWER_TIMEOUT", 4.0)
    one, other = pair
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent_address = f"127.0.0.1:{silent.getsockname()[1]}"
        second = [other.http]
        sampler = Sampler(
            lambda: [
                Target("a", "server", one.http, pid=one.servers[0].pid),
                Target("b", "server", second[0], pid=other.servers[0].pid),
                Target("gone", "server", "127.0.0.1:9"),
            ],
            GpuMeter(),
        )
        sampler.sample()
        second[0] = silent_address
        ask(one.http, "echo", times=5)
        began = time.monotonic()
        sample = sampler.sample()
        assert time.monotonic() - began < 30, "not as long as requests may take"
    assert [bool(server.fault) for server in sample.servers] == [False, True, True]
    assert "no answer in time" in sample.servers[1].fault
    assert "refused" in sample.servers[2].fault
    assert round(model(sample, "echo").requests * sample.seconds) == 5
    # Back again, it counts from then on: what it did unseen is in no interval.
    second[0] = other.http
    ask(other.http, "echo", times=50)
    assert {load.server for load in sampler.sample().models} == {None}
    ask(other.http, "echo", times=3)
    back = sampler.sample()
    assert round(model(back, "echo", "b").requests * back.seconds) == 3


MANY_SAMPLES = """
import os, sys, threading
from tritonkit.serve.gpu_load import GpuMeter
from tritonkit.serve.top import Sampler, Target
sampler = Sampler(lambda: [Target(address, "server", address) for address in sys.argv[1:]], GpuMeter())
sampler.sample()
count = lambda: (len(os.listdir("/proc/self/fd")), threading.active_count())
before = count()
for _ in range(100):
    sample = sampler.sample()
assert count() == before, (before, count())
assert len(sample.models) > 2
"""


def test_samples_leave_no_connection_and_no_thread_behind(pair: tuple[serve.Deployment, serve.Deployment]) -> None:
    # In a process of its own: the deployments' supervisors run in this one.
    argv = [sys.executable, "-c", MANY_SAMPLES, *(deployment.http for deployment in pair)]
    subprocess.run(argv, check=True, timeout=60)


def test_gpus_are_read_from_nvml_and_those_of_the_deployment_are_shown(gpus: Callable[..., None]) -> None:
    gib = 2**30
    gpus(
        {"uuid": "GPU-0", "used": 8 * gib, "total": 141 * gib, "busy": 73, "milliwatts": 412_300},
        {"uuid": "GPU-1", "used": 9 * gib, "total": 141 * gib, "busy": 5, "milliwatts": None},
    )
    meter = GpuMeter()
    expected = (
        GpuLoad(0, "GPU-0", "NVIDIA H200", 73.0, 8 * gib, 141 * gib, 412.3, 700.0),
        GpuLoad(1, "GPU-1", "NVIDIA H200", 5.0, 9 * gib, 141 * gib, None, 700.0),
    )
    assert meter.read() == expected
    sample = Sampler(list, meter).sample()
    assert (sample.gpus, sample.no_gpus) == (expected, "")
    mine = Target("a", "gateway", "", gpu=1)
    assert Sampler(lambda: [mine], meter).sample().gpus == expected[1:]
    console = Console(width=100, file=io.StringIO())
    console.print(tables(sample))
    assert isinstance(console.file, io.StringIO)
    written = console.file.getvalue()
    for words in (("0", "73 %", "8.0 / 141 GiB", "412 / 700 W"), ("1", "5 %", "9.0 / 141 GiB", "- / 700 W")):
        assert any(all(word in line for word in words) for line in written.splitlines()), written
    meter.close()


def test_a_lost_gpu_keeps_its_row(gpus: Callable[..., None]) -> None:
    gpus({"name": "NVIDIA H200"}, {"refuses": "nvmlDeviceGetHandleByIndex"})
    lost = GpuMeter().read()[1]
    assert lost == GpuLoad(1, "", "NVML: GPU is lost", None, None, None, None, None)
    console = Console(width=100, file=io.StringIO())
    console.print(tables(Sampler(list, GpuMeter()).sample()))
    assert isinstance(console.file, io.StringIO)
    assert "NVML: GPU is lost" in console.file.getvalue()


def test_no_gpu_is_a_reason_and_no_failure(gpus: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    gpus()
    assert "sees no GPU" in Sampler(list, GpuMeter()).sample().no_gpus
    monkeypatch.delenv("FAKE_NVML")
    sample = Sampler(list, GpuMeter()).sample()
    assert sample.gpus == ()
    assert "Driver Not Loaded" in sample.no_gpus
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert "nvidia-ml-py is not installed" in GpuMeter().reason


@pytest.mark.gpu
def test_a_real_gpu_gives_its_figures() -> None:
    meter = GpuMeter()
    assert not meter.reason
    for gpu in meter.read():
        assert gpu.uuid.startswith("GPU-")
        assert gpu.memory_total is not None
        assert gpu.memory_total > 2**30
        assert gpu.utilization is not None
        assert 0 <= gpu.utilization <= 100
        assert gpu.power is not None
        assert gpu.power > 1


def test_one_sample_as_json_and_as_tables(pair: tuple[serve.Deployment, serve.Deployment]) -> None:
    project = pair[0].project
    done = tritonkit(project, "top", "--json", "--interval", "0.2")
    assert done.returncode == 0, done.stderr
    sample = json.loads(done.stdout)
    assert 0.2 <= sample["seconds"] < 5
    assert [server["name"] for server in sample["servers"]] == ["server"]
    assert sample["servers"][0]["state"] == "ready"
    assert sorted(load["model"] for load in sample["models"]) == ["echo", "slow"]
    assert bool(sample["gpus"]) != bool(sample["no_gpus"])

    done = tritonkit(project, "top", "--once", "--interval", "0.2")
    assert done.returncode == 0, done.stderr
    for word in ("requests/s", "queue ms", "compute ms", "batch", "restarts", "echo", "slow", "ready"):
        assert word in done.stdout
    # In a pipe nobody presses a key: one sample, and the end.
    assert "requests/s" in tritonkit(project, "top", "--interval", "0.2").stdout


def test_servers_that_tritonkit_did_not_start(pair: tuple[serve.Deployment, serve.Deployment], tmp_path: Path) -> None:
    one, other = pair
    addresses = ("--url", one.http, "--url", other.http, "--url", "127.0.0.1:9")
    done = tritonkit(tmp_path, "top", "--json", "--interval", "0.2", *addresses)
    assert done.returncode == 0, done.stderr
    sample = json.loads(done.stdout)
    assert [server["name"] for server in sample["servers"]] == [one.http, other.http, "127.0.0.1:9"]
    echo = [load["server"] for load in sample["models"] if load["model"] == "echo"]
    assert echo == [None, *sorted((one.http, other.http))]
    assert "refused" in sample["servers"][2]["fault"]


def test_nothing_to_look_at(tmp_path: Path) -> None:
    done = tritonkit(tmp_path, "top", "--once")
    assert done.returncode == 1
    assert "no server runs" in done.stderr
    assert "tritonkit up" in done.stderr


class Terminal:
    """``tritonkit top`` on a terminal of its own, and what is on its screen."""

    def __init__(self, project: Path, columns: int, rows: int) -> None:
        self._ours, theirs = pty.openpty()
        self.resize(columns, rows, tell=False)
        self.screen = pyte.Screen(columns, rows)
        self._stream = pyte.ByteStream(self.screen)
        self.written = b""
        self._theirs = theirs
        self.before = termios.tcgetattr(theirs)
        self.process = subprocess.Popen(
            [sys.executable, "-c", OWN_TERMINAL, str(PROGRAM), "top", "--interval", "0.3"],
            cwd=project,
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env={**os.environ, "TERM": "xterm-256color"},
            start_new_session=True,
        )

    def resize(self, columns: int, rows: int, *, tell: bool = True) -> None:
        fcntl.ioctl(self._ours, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        if tell:
            self.read()
            self.screen.resize(rows, columns)

    def press(self, key: bytes) -> None:
        os.write(self._ours, key)

    def read(self) -> str:
        while select.select([self._ours], [], [], 0.05)[0]:
            some = os.read(self._ours, 65536)
            self.written += some
            self._stream.feed(some)
        return "\n".join(self.screen.display)

    def ended(self) -> int:
        code = wait_for(lambda: (self.read(), self.process.poll())[1:])[0]
        while code is None:
            self.read()
            code = self.process.poll()
        self.read()
        return int(code)

    def as_before(self) -> bool:
        """Whether keys are seen and edited again, the cursor is shown, and the lines of before are back."""
        now = termios.tcgetattr(self._theirs)
        shown = self.written.rfind(b"\x1b[?25h") > self.written.rfind(b"\x1b[?25l")
        left = self.written.rfind(b"\x1b[?1049l") > self.written.rfind(b"\x1b[?1049h") >= 0
        return now == self.before and shown and left

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._ours)
        os.close(self._theirs)


@contextmanager
def terminal(project: Path, columns: int = 100, rows: int = 30) -> Iterator[Terminal]:
    one = Terminal(project, columns, rows)
    try:
        yield one
    finally:
        one.close()


def test_the_live_view_shows_the_load_follows_the_window_and_leaves_at_q(
    pair: tuple[serve.Deployment, serve.Deployment],
) -> None:
    with terminal(pair[0].project) as view:
        wait_for(lambda: "requests/s" in view.read())
        assert "q quits" in view.read()

        def busy() -> bool:
            ask(pair[0].http, "echo", times=20)
            rows = [line.split() for line in view.read().splitlines() if line.startswith((" echo", "echo"))]
            return bool(rows) and float(rows[0][1]) > 0

        wait_for(busy)
        view.resize(60, 12)
        wait_for(lambda: "request…" in view.read())
        view.resize(120, 40)
        wait_for(lambda: "compute ms   batch" in view.read())
        view.press(b"q")
        assert view.ended() == 0
        assert view.as_before()


@pytest.mark.parametrize(("end", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_the_live_view_and_the_terminal_is_as_before(
    pair: tuple[serve.Deployment, serve.Deployment], end: signal.Signals, code: int
) -> None:
    with terminal(pair[0].project) as view:
        wait_for(lambda: "requests/s" in view.read())
        if end == signal.SIGINT:
            view.press(b"\x03")
        else:
            view.process.send_signal(end)
        assert view.ended() == code
        assert view.as_before()
        assert b"Traceback" not in view.written


def test_the_live_view_ends_with_its_deployment(tmp_path: Path) -> None:
    with up(tmp_path, echo_repository(tmp_path / "models")):
        one = Terminal(tmp_path, 100, 30)
        try:
            wait_for(lambda: "requests/s" in one.read())
        except BaseException:
            one.close()
            raise
    try:
        assert one.ended() == 1
        assert one.as_before()
        assert b"no server runs" in one.written
    finally:
        one.close()
