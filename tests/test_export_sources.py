"""Sources: files that lie elsewhere, siblings, and what is said of those that cannot be had."""

from __future__ import annotations

import hashlib
import http.server
import os
import pickle
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import fsspec
import pytest
import safetensors.torch
import torch
import torch_modules
from exporting import Project, recipe, spec, torch_spec
from onnx_models import identity

from tritonkit.artifacts import fetch, torch_module
from tritonkit.artifacts.recipes import Download
from tritonkit.errors import ExportFailed, ToolMissing


@dataclass
class Remote:
    """A web server: the files by path, what was asked for, and how much it gives before it hangs up."""

    url: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    asked: list[tuple[str, str]] = field(default_factory=list)
    gives: int | None = None


@pytest.fixture
def remote() -> Iterator[Remote]:
    state = Remote()

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self.answer(body=False)

        def do_GET(self) -> None:
            self.answer(body=True)

        def answer(self, *, body: bool) -> None:
            ranged = self.headers.get("Range", "")
            state.asked.append((self.command, ranged))
            content = state.files.get(self.path)
            if content is None:
                self.send_response(404)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            first, last = 0, len(content) - 1
            if ranged:
                begin, _, end = ranged.removeprefix("bytes=").partition("-")
                first, last = int(begin), min(int(end or last), last)
            self.send_response(206 if ranged else 200)
            self.send_header("Accept-Ranges", "bytes")
            if ranged:
                self.send_header("Content-Range", f"bytes {first}-{last}/{len(content)}")
            self.send_header("Content-Length", str(last - first + 1))
            digest = hashlib.sha256(content).hexdigest()
            self.send_header("ETag", f'"{digest}"')
            self.send_header("X-Repo-Commit", "0" * 40)
            self.end_headers()
            if not body:
                return
            part = content[first : last + 1]
            if state.gives is not None and first + len(part) > state.gives:
                self.wfile.write(part[: max(state.gives - first, 0)])
                self.close_connection = True
                return
            self.wfile.write(part)

        def log_message(self, *args: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield state
    server.shutdown()
    thread.join()
    server.server_close()


def silent(_stage: str, _share: float) -> None:
    pass


CONTENT = bytes(range(256)) * 20_000


def test_a_url_is_fetched_once_and_served_from_the_cache(tmp_path: Path, cache: Path, remote: Remote) -> None:
    remote.files["/net.onnx"] = identity(tmp_path / "net.onnx").read_bytes()
    project = Project(tmp_path, spec(f"{remote.url}/net.onnx", max_batch_size="8"))
    assert project.run("build-repo", "spec.yaml").exit_code == 0
    assert (tmp_path / "model_repository/net/1/model.onnx").read_bytes() == remote.files["/net.onnx"]
    asked = len(remote.asked)
    (tmp_path / "model_repository/net/1/model.onnx").unlink()
    for _ in range(2):
        assert project.run("build-repo", "spec.yaml").exit_code == 0
    assert len(remote.asked) == asked
    remote.files["/net.onnx"] = identity(tmp_path / "net.onnx", ("batch", 3)).read_bytes()
    (row,) = project.export("--refresh")
    assert row["bytes"] == len(remote.files["/net.onnx"])
    assert not list(cache.glob("downloads/*.partial*"))


def test_every_version_has_a_source_of_its_own(tmp_path: Path, cache: Path, remote: Remote) -> None:
    remote.files["/net.onnx"] = identity(tmp_path / "net.onnx", ("batch", 3)).read_bytes()
    identity(tmp_path / "net.onnx", ("batch", 3), initializer_as_input=True)
    versions = f"{{1: net.onnx, 4: {{file: {remote.url}/net.onnx}}}}"
    text = f"version: 1\nmodels:\n  net: {{versions: {versions}, max_batch_size: 8, version_policy: {{all: {{}}}}}}\n"
    project = Project(tmp_path, text)
    assert [row["model"] for row in project.export("net")] == ["net/4"]
    assert project.run("build-repo", "spec.yaml").exit_code == 0
    built = tmp_path / "model_repository/net"
    assert (built / "1/model.onnx").read_bytes() == (tmp_path / "net.onnx").read_bytes()
    assert (built / "4/model.onnx").read_bytes() == remote.files["/net.onnx"]
    project.write(text.replace("4: {file:", "4: {fil:"))
    assert "models.net.versions.4: expected a path or URL" in project.refused(code=2)
    project.write(text.replace(f"{{file: {remote.url}/net.onnx}}", "{model: nett}"))
    assert "models.net.versions.4.model: there is no model 'nett'; did you mean 'net'?" in project.refused(code=2)


def test_a_download_goes_on_where_it_broke_off(cache: Path, remote: Remote) -> None:
    remote.files["/large.onnx"] = CONTENT
    remote.gives = 3_000_000
    download = Download(f"{remote.url}/large.onnx", hashlib.sha256(CONTENT).hexdigest())
    with pytest.raises(ExportFailed, match=r"large\.onnx"):
        fetch.fetch(download, silent)
    (partial,) = cache.glob("downloads/*.partial")
    kept = partial.stat().st_size
    assert 0 < kept <= 3_000_000
    remote.gives = None
    remote.asked.clear()
    shares: list[float] = []
    file = fetch.fetch(download, lambda _, share: shares.append(share))
    assert file.read_bytes() == CONTENT
    begun = [
        int(ranged.removeprefix("bytes=").partition("-")[0])
        for verb, ranged in remote.asked
        if verb == "GET" and ranged
    ]
    assert min(begun) >= kept
    assert shares == sorted(shares)
    assert shares[-1] == 1.0


def test_a_file_that_changed_meanwhile_is_fetched_from_the_start(cache: Path, remote: Remote) -> None:
    remote.files["/large.onnx"] = CONTENT
    remote.gives = 3_000_000
    download = Download(f"{remote.url}/large.onnx")
    with pytest.raises(ExportFailed):
        fetch.fetch(download, silent)
    remote.files["/large.onnx"] = CONTENT[::-1]
    remote.gives = None
    assert fetch.fetch(download, silent).read_bytes() == CONTENT[::-1]


def test_a_wrong_sha256_is_refused_and_nothing_kept(tmp_path: Path, cache: Path, remote: Remote) -> None:
    remote.files["/net.onnx"] = CONTENT
    project = Project(tmp_path, spec(f"{{file: {remote.url}/net.onnx, sha256: '{'0' * 64}'}}"))
    words = project.refused()
    assert f"has the sha256 {hashlib.sha256(CONTENT).hexdigest()}, not {'0' * 64}" in words
    assert not [path for path in cache.rglob("*") if path.is_file() and path.suffix != ".lock"]
    identity(tmp_path / "local.onnx")
    project.write(spec(f"{{file: local.onnx, sha256: '{'0' * 64}'}}"))
    assert "models.net.source.sha256" in project.refused(code=2)


def test_urls_that_cannot_be_reached(tmp_path: Path, cache: Path, remote: Remote) -> None:
    cases = {f"{remote.url}/none.onnx": "404", "http://127.0.0.1:1/net.onnx": "Cannot connect to host"}
    for url, reason in cases.items():
        words = Project(tmp_path, spec(url)).refused()
        assert f"net: {url} cannot be fetched: " in words
        assert reason in words
    with pytest.raises(ExportFailed, match="Protocol not known"):
        fetch.fetch(Download("gopher://host/net.onnx"), silent)
    with pytest.raises(ToolMissing, match="gcsfs"):
        fetch.fetch(Download("gs://bucket/net.onnx"), silent)
    with pytest.raises(ExportFailed, match="names no file"):
        fetch.fetch(Download("hf://org/repo"), silent)


def test_other_filesystems(cache: Path) -> None:
    memory = fsspec.filesystem("memory")
    memory.pipe("/bucket/net.onnx", CONTENT)
    assert fetch.fetch(Download("memory://bucket/net.onnx"), silent).read_bytes() == CONTENT
    with pytest.raises(ExportFailed, match="folder"):
        fetch.fetch(Download("memory://bucket"), silent)


def test_a_file_of_hugging_face(tmp_path: Path, cache: Path, remote: Remote) -> None:
    remote.files["/org/repo/resolve/main/nets/net.onnx"] = CONTENT
    # The address is read when huggingface_hub is imported, once in a process.
    env = {**os.environ, "HF_ENDPOINT": remote.url, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_DISABLE_XET": "1"}

    def export() -> subprocess.CompletedProcess[str]:
        argv = [sys.executable, "-m", "tritonkit", "export", "spec.yaml"]
        return subprocess.run(argv, cwd=tmp_path, env=env, capture_output=True, text=True, check=False, timeout=60)

    project = Project(tmp_path, spec("hf://org/repo/nets/net.onnx", max_batch_size="8"))
    done = export()
    assert done.returncode == 0, done.stderr
    (file,) = cache.glob("downloads/*/net.onnx")
    assert file.read_bytes() == CONTENT
    project.write(spec("hf://org/repo/none.onnx"))
    done = export()
    assert done.returncode == 4
    assert "net: hf://org/repo/none.onnx cannot be fetched: " in done.stderr


def test_weights_are_loaded_and_pickles_that_run_code_are_not(tmp_path: Path, cache: Path) -> None:
    torch.manual_seed(11)
    trained = torch_modules.cnn().state_dict()
    torch.save(trained, tmp_path / "weights.pt")
    safetensors.torch.save_file(trained, tmp_path / "weights.safetensors")
    for name in ("weights.pt", "weights.safetensors"):
        loaded = torch_module.load(recipe(), tmp_path / name).state_dict()
        assert all((loaded[key] == value).all() for key, value in trained.items())

    class Code:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(tmp_path / "ran"),)

    (tmp_path / "weights.pt").write_bytes(pickle.dumps({"convolution.weight": Code()}))
    project = Project(tmp_path, torch_spec().replace('cnn"', 'cnn", weights: weights.pt'))
    assert "weights.pt is refused: it holds more than weights" in project.refused()
    assert not (tmp_path / "ran").exists()
    torch.save({"other.weight": torch.zeros(1)}, tmp_path / "weights.pt")
    with pytest.raises(ExportFailed, match="do not fit the module"):
        torch_module.load(recipe(), tmp_path / "weights.pt")
    (tmp_path / "weights.pt").write_bytes(b"nothing of the kind")
    with pytest.raises(ExportFailed, match=r"weights\.pt"):
        torch_module.load(recipe(), tmp_path / "weights.pt")


BAD = {
    "a factory that raises": (
        torch_spec("raises"),
        4,
        "net: the factory torch_modules:raises raised RuntimeError: the checkpoint is from another planet "
        "(torch_modules.py:",
    ),
    "a factory that is not there": (torch_spec("none"), 4, "has no attribute 'none'"),
    "a module that is not there": (
        spec('{torch: "nowhere:cnn"}', input='{x: "FP32[1]"}'), 4, "No module named 'nowhere'",
    ),
    "no module": (torch_spec("no_module"), 4, "returned a dict, not a torch.nn.Module"),
    "a process that ends": (torch_spec("leaves"), 4, "ended unexpectedly (exit code 7)"),
    "a shape that it cannot take": (
        torch_spec(input='{image: "FP32[5,16,16]"}'), 4, "the module raised RuntimeError for batch 1",
    ),
    "a batch that is baked in": (torch_spec("fixed"), 4, "torch.export refuses the module"),
    "no finite answer": (torch_spec("not_a_number"), 4, "no finite value"),
    "another number of outputs": (
        torch_spec(output='{a: "FP32[10]", b: "FP32[10]"}'), 4, "returns 1 outputs (output), the spec states a, b",
    ),
    "other dims than stated": (
        torch_spec(output='{output: "FP32[11]"}'), 2,
        "the output 'output' is stated with dims [11], and has [10] after the batch in the artifact",
    ),
    "no inputs": (spec('{torch: "torch_modules:cnn"}'), 2, "does not tell its inputs"),
    "an input without dims": (
        torch_spec(input="{image: {data_type: TYPE_FP32}}"), 2, "'image' needs a data type and dims",
    ),
    "an unknown backend": (
        torch_spec(backend="openvino"), 2, "for the backends onnxruntime, pytorch, tensorrt, not for openvino",
    ),
    "no such sibling": (spec("{model: nett}"), 2, "there is no model 'nett'"),
    "itself": (spec("{model: net}"), 2, "leads back to itself"),
    "an export of nothing": (spec("net.onnx", export="{precision: FP16}"), 2, "nothing is made from it"),
    "no weights": (
        spec('{torch: "torch_modules:cnn", weights: none.pt}', input='{x: "FP32[1]"}'), 2, "there is no file",
    ),
    "not ONNX": (
        spec("broken.onnx", backend="tensorrt", export="{compute_capabilities: [8.9]}"), 4,
        "broken.onnx is not an ONNX model",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_sources_are_refused_and_nothing_published(tmp_path: Path, cache: Path, case: str) -> None:
    text, code, words = BAD[case]
    identity(tmp_path / "net.onnx")
    (tmp_path / "broken.onnx").write_bytes(b"\x89PNG nothing of the kind")
    project = Project(tmp_path, text)
    result = project.run("build-repo", "spec.yaml")
    assert result.exit_code == code, result.output
    assert words in result.stderr
    assert "Traceback" not in result.output
    assert not (tmp_path / "model_repository").exists()
    # What was proved and does not fit the spec is a product all the same.
    assert bool(list(cache.glob("artifacts/*"))) is (case == "other dims than stated")


def test_a_disk_that_is_full(tmp_path: Path, cache: Path) -> None:
    Project(tmp_path, torch_spec())

    def no_room() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))

    argv = [sys.executable, "-m", "tritonkit", "build-repo", "spec.yaml"]
    done = subprocess.run(
        argv, cwd=tmp_path, preexec_fn=no_room, capture_output=True, text=True, check=False, timeout=100
    )
    assert done.returncode in (1, 4), done.stderr
    assert "File too large" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(cache.glob("artifacts/*"))


def test_a_cache_on_a_disk_that_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A real disk of 16 kB, in a mount namespace of its own; the artifact takes more."""
    Project(tmp_path, torch_spec().replace('cnn"', 'cnn", arguments: {width: 400}'))
    (tmp_path / "disk").mkdir()
    monkeypatch.setenv("TRITONKIT_CACHE", str(tmp_path / "disk"))
    mounted = 'mount -t tmpfs -o size=16k none disk && "$@"; code=$?; find disk -name "*.onnx*"; exit $code'
    namespace = ["unshare", "--map-root-user", "--mount", "sh", "-c", mounted, "sh"]
    argv = [*namespace, sys.executable, "-m", "tritonkit", "build-repo", "spec.yaml"]
    done = subprocess.run(argv, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=100)
    assert done.returncode in (1, 4), done.stderr
    assert "No space left on device" in done.stderr
    assert str(tmp_path / "disk") in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == "", "nothing is left in the cache"
    assert not (tmp_path / "model_repository").exists()
