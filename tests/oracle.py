"""The real tritonserver as the judge of configurations: one server under explicit model control, asked many times.

Each question is a set of files; they are written as a repository, the model is loaded, and what the server says is
the verdict. Its reason is in the answer, or, where the configuration did not pass its first look, in its log.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tritonkit.serve import backend_directory, ports
from tritonkit.tools import tritonserver

LOAD_SECONDS = 25.0
START_SECONDS = 60.0

# A model that answers zeros of the right types and shapes to whatever it is asked.
PYTHON_MODEL = """
import json

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def initialize(self, args):
        self.config = json.loads(args["model_config"])

    def execute(self, requests):
        batch = [1] if self.config["max_batch_size"] > 0 else []
        responses = []
        for request in requests:
            outputs = []
            for output in self.config["output"]:
                kind = pb_utils.triton_string_to_numpy(output["data_type"])
                shape = batch + [max(1, dim) for dim in output["dims"]]
                outputs.append(pb_utils.Tensor(output["name"], np.zeros(shape, kind)))
            if self.config.get("model_transaction_policy", {}).get("decoupled"):
                sender = request.get_response_sender()
                sender.send(pb_utils.InferenceResponse(outputs))
                sender.send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
            else:
                responses.append(pb_utils.InferenceResponse(outputs))
        return responses or None
"""

_SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - it has no other name
_STAMP = re.compile(r"^[IWEF]\d{4} \S+ \d+ \S+\] ", re.MULTILINE)


@dataclass(frozen=True)
class Verdict:
    """What the server made of a repository.

    Attributes:
        loads: whether the model was loaded.
        said: the server's reason where it was not.
    """

    loads: bool
    said: str


class Oracle:
    """A running tritonserver whose repository holds one question at a time.

    Attributes:
        loaded: how many models it has loaded.
        crashes: how often it had to be started again.
    """

    def __init__(self, folder: Path, *, auto_complete: bool) -> None:
        self._folder = folder
        self._auto_complete = auto_complete
        self._repository = folder / "repository"
        self._repository.mkdir()
        self._log = folder / "server.log"
        self._server = tritonserver.find()
        tritonserver.check(self._server)
        self._backends = backend_directory.assemble(self._server)
        self._process: subprocess.Popen[bytes] | None = None
        self._port = 0
        self.loaded = 0
        self.crashes = 0

    def ask(self, files: Mapping[str, str | bytes], model: str) -> Verdict:
        """Load ``model`` from a repository that holds ``files`` (a name that ends with ``/`` is an empty folder)."""
        for name, content in files.items():
            path = self._repository / name
            if name.endswith("/"):
                path.mkdir(parents=True, exist_ok=True)
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content.encode() if isinstance(content, str) else content)
        try:
            return self._load(model)
        finally:
            for left in self._repository.iterdir():
                shutil.rmtree(left)

    def _load(self, model: str, *, again: bool = True) -> Verdict:
        self._ensure_started()
        offset = self._log.stat().st_size
        try:
            status, body = self._post(f"/v2/repository/models/{model}/load", "{}", LOAD_SECONDS)
        except (OSError, http.client.HTTPException) as error:
            said = f"the server crashed or hung: {error!r}\n{self._read(offset)}"
            self._restart()
            # It may have crashed of the model before this one, which it was still clearing away; and a busy machine
            # can keep it waiting.
            if again:
                return self._load(model, again=False)
            return Verdict(loads=False, said=said)
        said = "" if status == 200 else str(json.loads(body).get("error", body))
        if "failed to poll" in said:
            said += "\n" + self._read(offset)
        self._unload(model)
        self.loaded += status == 200
        return Verdict(loads=status == 200, said=said)

    def _unload(self, model: str) -> None:
        path = f"/v2/repository/models/{model}/unload"
        end = time.monotonic() + LOAD_SECONDS
        try:
            self._post(path, '{"parameters": {"unload_dependents": true}}', LOAD_SECONDS)
            while time.monotonic() < end:
                _, body = self._post("/v2/repository/index", "{}", LOAD_SECONDS)
                if all(entry.get("state", "UNAVAILABLE") == "UNAVAILABLE" for entry in json.loads(body)):
                    return
                time.sleep(0.005)
        except (OSError, http.client.HTTPException):
            pass
        self._restart()

    def _restart(self) -> None:
        self.stop()
        self.crashes += 1

    @property
    def log(self) -> str:
        """All that the server has logged."""
        return self._read(0)

    def _post(self, path: str, body: str, timeout: float) -> tuple[int, str]:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=timeout)
        try:
            connection.request("POST", path, body)
            response = connection.getresponse()
            return response.status, response.read().decode(errors="replace")
        finally:
            connection.close()

    def _read(self, offset: int) -> str:
        with self._log.open("rb") as log:
            log.seek(offset)
            return _STAMP.sub("", log.read().decode(errors="replace"))

    def _ensure_started(self) -> None:
        if self._process is not None and self._process.poll() is None:
            return
        self.stop()
        self._port = ports.choose("127.0.0.1", {"http": 0})["http"]
        argv = [
            str(self._server.binary),
            f"--model-repository={self._repository}",
            f"--backend-directory={self._backends}",
            f"--backend-config=python,shm-region-prefix-name=oracle_{os.getpid()}_{self.crashes}_",
            "--model-control-mode=explicit",
            "--http-address=127.0.0.1",
            f"--http-port={self._port}",
            "--allow-grpc=false",
            "--allow-metrics=false",
            "--exit-timeout-secs=1",
            *(() if self._auto_complete else ("--disable-auto-complete-config",)),
        ]
        programs = tritonserver.environment_programs()
        environment = {
            **os.environ,
            "PATH": f"{programs}{os.pathsep}{os.environ.get('PATH', '')}",
            "LD_LIBRARY_PATH": tritonserver.library_path(),
        }
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                argv, cwd=self._empty(), env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        end = time.monotonic() + START_SECONDS
        while time.monotonic() < end and self._process.poll() is None:
            try:
                if self._get("/v2/health/live") == 200:
                    return
            except OSError:
                time.sleep(0.02)
        raise AssertionError(f"the oracle did not start:\n{self._log.read_text(errors='replace')[-3000:]}")

    def _get(self, path: str) -> int:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=5)
        try:
            connection.request("GET", path)
            return connection.getresponse().status
        finally:
            connection.close()

    def _empty(self) -> Path:
        empty = self._folder / "empty"
        empty.mkdir(exist_ok=True)
        return empty

    def stop(self) -> None:
        """End the server, and what its stubs hold of shared memory."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None
        for region in _SHARED_MEMORY.glob(f"oracle_{os.getpid()}_*"):
            region.unlink(missing_ok=True)


@contextmanager
def oracle(*, auto_complete: bool = True) -> Iterator[Oracle]:
    """An oracle for the time of a block. Without auto-completion, Triton's default, it is about twice as quick."""
    folder = Path(tempfile.mkdtemp(prefix="tritonkit-oracle-"))
    judge = Oracle(folder, auto_complete=auto_complete)
    try:
        yield judge
    finally:
        judge.stop()
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    with oracle() as asked:
        config = sys.stdin.read()
        print(asked.ask({"m/config.pbtxt": config, "m/1/model.py": PYTHON_MODEL}, "m"))
