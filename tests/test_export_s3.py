"""Sources in an S3 bucket: s3fs against moto's server, which speaks S3 over HTTP."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from exporting import spec
from moto.server import ThreadedMotoServer
from onnx_models import identity

from tritonkit.tools import digests

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """An empty bucket; what finds it is in the environment, as it is for users."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    made = boto3.resource("s3").Bucket("models")
    made.create()
    yield made
    made.objects.delete()
    server.stop()


def tritonkit(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "tritonkit", *arguments]
    return subprocess.run(argv, cwd=folder, env=os.environ, capture_output=True, text=True, check=False, timeout=60)


def test_a_file_of_a_bucket_is_fetched_once_verified_and_built(tmp_path: Path, cache: Path, bucket: Any) -> None:
    file = identity(tmp_path / "net.onnx")
    bucket.upload_file(str(file), "vision/net.onnx")
    digest = digests.of_file(file)
    source = f"{{file: 's3://models/vision/net.onnx', sha256: {digest}}}"
    (tmp_path / "spec.yaml").write_text(spec(source, max_batch_size="8"))
    done = tritonkit(tmp_path, "build-repo", "spec.yaml")
    assert done.returncode == 0, done.stderr
    built = tmp_path / "model_repository/net/1/model.onnx"
    assert built.read_bytes() == file.read_bytes()
    bucket.objects.delete()
    built.unlink()
    assert tritonkit(tmp_path, "build-repo", "spec.yaml").returncode == 0, "from the cache"
    assert built.read_bytes() == file.read_bytes()


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("{file: 's3://models/gone.onnx'}", "s3://models/gone.onnx cannot be fetched: "),
        ("{file: 's3://nowhere/net.onnx'}", "s3://nowhere/net.onnx cannot be fetched: "),
        ("{file: 's3://models/net.onnx', sha256: " + "0a" * 32 + "}", "nothing was kept of it"),
    ],
)
def test_what_a_bucket_does_not_give(tmp_path: Path, cache: Path, bucket: Any, source: str, words: str) -> None:
    bucket.upload_file(str(identity(tmp_path / "net.onnx")), "net.onnx")
    (tmp_path / "spec.yaml").write_text(spec(source, max_batch_size="8"))
    done = tritonkit(tmp_path, "build-repo", "spec.yaml")
    assert done.returncode == 4
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "model_repository").exists()
    assert not list(cache.rglob("*.onnx"))
