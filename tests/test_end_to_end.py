"""The whole path as a newcomer walks it: init, build, serve, ask, measure, stop; on real images and real programs."""

from __future__ import annotations

import csv
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tritonclient.http as triton
from serving import ANY_PORTS, left_of, processes_naming, tritonkit, wait_for

from tritonkit.serve import Deployment, running

ROOT = Path(__file__).parent.parent
STARTER = ROOT / "templates/starters/digits"


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The starter, built and up."""
    folder = tmp_path_factory.mktemp("newcomer") / "digits"
    assert tritonkit(folder.parent, "init", "digits").returncode == 0
    up = tritonkit(folder, "up", "--detach", *ANY_PORTS)
    try:
        assert up.returncode == 0, up.stderr
        assert "9 created" in up.stderr
        yield folder
    finally:
        deployment = running(folder)
        down = tritonkit(folder, "down")
    assert down.returncode == 0
    assert left_of(deployment.id) == []
    assert processes_naming(folder) == []


@pytest.fixture(scope="module")
def deployment(project: Path) -> Deployment:
    return running(project)


def evaluate(project: Path, url: str) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "evaluate.py", "--url", url]
    return subprocess.run(argv, cwd=project, capture_output=True, text=True, check=False, timeout=60)


def test_served_accuracy_is_offline_accuracy_image_by_image(project: Path, deployment: Deployment) -> None:
    done = evaluate(project, deployment.http)
    assert done.returncode == 0, done.stdout + done.stderr
    figures = re.search(
        r"served accuracy ([\d.]+)%  offline accuracy ([\d.]+)%  identical predictions (\d+)/(\d+)", done.stdout
    )
    assert figures
    assert figures[1] == figures[2]
    assert float(figures[1]) >= 97
    assert figures[3] == figures[4] == "360"


def test_evaluation_fails_on_another_network(project: Path, deployment: Deployment, tmp_path: Path) -> None:
    shutil.copytree(project, tmp_path / "other", ignore=shutil.ignore_patterns(".tritonkit"))
    model = tmp_path / "other/models/digits.onnx"
    content = bytearray(model.read_bytes())
    # The middle of the file is weights: the network stays a network, and becomes a bad one.
    middle = len(content) // 2
    content[middle : middle + 20_000] = np.random.default_rng(0).normal(size=5_000).astype("<f4").tobytes()
    model.write_bytes(content)
    done = evaluate(tmp_path / "other", deployment.http)
    assert done.returncode == 1, done.stdout
    assert "identical predictions" in done.stdout


def test_evaluation_without_a_server(project: Path) -> None:
    done = evaluate(project, "127.0.0.1:9")
    assert done.returncode == 1
    assert done.stderr.startswith("error: 127.0.0.1:9: ")


def test_infer_by_name_and_by_sample(project: Path) -> None:
    named = tritonkit(project, "infer", "classify", "--input", "IMAGE=@samples/7.png", "--classes", "2", "--json")
    assert named.returncode == 0, named.stderr
    (best, second) = json.loads(named.stdout)["outputs"][0]["classes"][0]
    assert (best["index"], best["label"]) == (7, "seven")
    assert best["score"] > second["score"]
    samples = tritonkit(project, "infer", "classify", "--json")
    assert samples.returncode == 0, samples.stderr
    scores = np.array(json.loads(samples.stdout)["outputs"][0]["values"])
    assert scores.argmax(axis=1).tolist() == list(range(10)), "samples/0.png to samples/9.png"


def test_one_bad_image_spoils_only_its_own_request(deployment: Deployment) -> None:
    images = [(STARTER / f"samples/{digit}.png").read_bytes() for digit in range(10)]
    with triton.InferenceServerClient(deployment.http, concurrency=10) as client:
        pending = []
        for round_ in range(4):
            for digit in range(10):
                tensor = triton.InferInput("IMAGE", [1, 1], "BYTES")
                image = b"no image" if digit == 3 and round_ % 2 else images[digit]
                tensor.set_data_from_numpy(np.array([[image]], dtype=np.object_))
                pending.append((digit, image == images[digit], client.async_infer("classify", [tensor])))
        for digit, sound, answer in pending:
            if sound:
                assert answer.get_result().as_numpy("SCORES").argmax() == digit
            else:
                with pytest.raises(triton.InferenceServerException, match="IMAGE 0 of the 1 in this request"):
                    answer.get_result()


def test_bench_measures_the_ensemble_with_its_samples(project: Path) -> None:
    done = tritonkit(
        project, "bench", "classify", "--concurrency", "1,2", "--measurement-interval", "300",
        "--stability-percentage", "50", "--output", "results",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr + done.stdout
    with (project / "results/results.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 2
    document = json.loads((project / "results/study.json").read_text())
    assert (document["state"], len(document["planned"])) == ("complete", 2)
    assert "times in ms" in done.stdout


def test_an_edited_spec_is_built_and_served_by_the_next_up(project: Path, tmp_path: Path) -> None:
    shutil.copytree(project, tmp_path / "edited", ignore=shutil.ignore_patterns(".tritonkit", "model_repository"))
    folder = tmp_path / "edited"
    overlay = folder / "one.yaml"
    overlay.write_text("models:\n  read_image: {instance_group: 1}\n")
    arguments = ("spec.yaml", "one.yaml", "--set", "models.digits.max_batch_size=64")
    try:
        up = tritonkit(folder, "up", *arguments, "--detach", *ANY_PORTS)
        assert up.returncode == 0, up.stderr
        with triton.InferenceServerClient(running(folder).http) as client:
            assert client.get_model_config("digits")["max_batch_size"] == 64
            assert client.get_model_config("read_image")["instance_group"][0]["count"] == 1
    finally:
        tritonkit(folder, "down")


def test_up_refuses_a_bad_spec_before_anything_starts(tmp_path: Path) -> None:
    (tmp_path / "spec.yaml").write_text("version: 1\nmodels: {m: {source: none.onnx}}\n")
    up = tritonkit(tmp_path, "up", "--detach", *ANY_PORTS)
    assert up.returncode == 2
    assert "models.m.source" in up.stderr
    assert list(tmp_path.iterdir()) == [tmp_path / "spec.yaml"]
    neither = tritonkit(tmp_path, "up", "nothing-here", *ANY_PORTS)
    assert neither.returncode == 2
    assert "nothing-here" in neither.stderr


def test_dry_run_builds_and_starts_nothing(tmp_path: Path) -> None:
    tritonkit(tmp_path, "init", "digits", "--output", ".")
    before = sorted(tmp_path.rglob("*"))
    planned = tritonkit(tmp_path, "up", "--dry-run", "--json", *ANY_PORTS)
    assert planned.returncode == 0, planned.stderr
    assert json.loads(planned.stdout)["processes"]
    assert sorted(tmp_path.rglob("*")) == before


def test_the_committed_repository_is_the_starters_build() -> None:
    spec = str(STARTER / "spec.yaml")
    done = tritonkit(ROOT, "build-repo", spec, "--output", "model_repository", "--check")
    assert done.returncode == 0, done.stdout


def test_the_committed_repository_serves_as_it_is(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "model_repository", tmp_path / "model_repository")
    try:
        up = tritonkit(tmp_path, "up", "model_repository", "--detach", *ANY_PORTS)
        assert up.returncode == 0, up.stderr
        image = STARTER / "samples/4.png"
        done = tritonkit(tmp_path, "infer", "classify", "--input", f"IMAGE=@{image}", "--classes", "1", "--json")
        assert json.loads(done.stdout)["outputs"][0]["classes"][0][0]["label"] == "four"
    finally:
        tritonkit(tmp_path, "down")
    wait_for(lambda: not processes_naming(tmp_path))
