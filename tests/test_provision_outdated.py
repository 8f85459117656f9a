"""Which version of a model a profile's points are of: what makes another one of it, and what becomes of the points."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from profiled import project
from serving import tritonkit

from tritonkit.errors import SpecError
from tritonkit.provision import campaign
from tritonkit.provision.outdated import outdated, take_out, without
from tritonkit.provision.profiles import Beside, Key, Row, read, write
from tritonkit.repository.fingerprint import fingerprints
from tritonkit.spec.loading import load

MODEL = {
    "backend": "python", "source": "src/", "max_batch_size": 8, "input": {"X": "FP32[4]"}, "output": {"Y": "FP32[4]"},
    "dynamic_batching": {"max_queue_delay_microseconds": 200}, "slo": {"latency_p99": "20ms", "rate": "10/s"},
}  # fmt: skip
TORCH = {
    "backend": "onnxruntime", "source": {"torch": "nets:make"}, "max_batch_size": 8, "input": {"X": "FP32[4]"},
    "output": {"Y": "FP32[4]"},
}  # fmt: skip
STEPS = [
    {"model": "first", "input": {"X": "X"}, "output": {"Y": "inner"}},
    {"model": "second", "input": {"X": "inner"}, "output": {"Y": "Y"}},
]
WHOLE = {**{key: MODEL[key] for key in ("max_batch_size", "input", "output")}, "ensemble": STEPS}


def folder_of(place: Path, **changes: dict[str, Any]) -> Path:
    """A spec of four models, with these changes to some of them."""
    (place / "src").mkdir(parents=True, exist_ok=True)
    (place / "src/model.py").write_text("class TritonPythonModel:\n    pass\n")
    (place / "nets.py").write_text("def make():\n    pass\n")
    (place / "single.py").write_text("class TritonPythonModel:\n    pass\n")
    models = {"first": MODEL, "second": {**MODEL, "source": "single.py"}, "torch": TORCH, "whole": WHOLE}
    spec = {"version": 1, "models": {name: {**body, **changes.get(name, {})} for name, body in models.items()}}
    (place / "spec.yaml").write_text(yaml.safe_dump(spec))
    return place


def digests(place: Path) -> dict[str, str]:
    return fingerprints(load([place / "spec.yaml"], [], {}))


def changed(before: dict[str, str], place: Path) -> set[str]:
    return {name for name, digest in digests(place).items() if digest != before[name]}


@pytest.mark.parametrize(
    "change",
    [
        {"instance_group": [{"count": 2, "kind": "KIND_CPU"}]},
        {"parameters": {"threads": "2"}},
        {"backend": "pytorch"},
        {"files": {"1/weights.bin": "spec.yaml"}},
        {"source": "src/model.py"},
    ],
)
def test_configuration_and_files_make_another_version(tmp_path: Path, change: dict[str, Any]) -> None:
    before = digests(folder_of(tmp_path))
    assert all(len(digest) == 12 for digest in before.values())
    # An ensemble is what its members are.
    assert changed(before, folder_of(tmp_path, first=change)) == {"first", "whole"}


@pytest.mark.parametrize(
    "change",
    [
        {"max_batch_size": 32},
        {"dynamic_batching": {}},
        {"slo": {"latency_p99": "5ms", "rate": "70/s"}},
        {"samples": {"X": [1, 2, 3, 4]}},
        {"model_warmup": [{"name": "one", "batch_size": 1, "inputs": {}}]},
    ],
)
def test_what_a_plan_sets_and_what_does_not_compute_makes_none(tmp_path: Path, change: dict[str, Any]) -> None:
    before = digests(folder_of(tmp_path))
    assert changed(before, folder_of(tmp_path, first=change)) == set()
    assert changed(before, folder_of(tmp_path, torch={"max_batch_size": 32})) == set()


def test_the_content_of_files_counts_and_not_where_they_lie(tmp_path: Path) -> None:
    before = digests(folder_of(tmp_path / "one"))
    assert changed(before, folder_of(tmp_path / "two")) == set()
    place = folder_of(tmp_path / "two")
    (place / "src/__pycache__").mkdir()
    (place / "src/__pycache__/model.pyc").write_text("of no account")
    assert changed(before, place) == set()
    (place / "src/model.py").write_text("import time\n")
    assert changed(before, place) == {"first", "whole"}
    place = folder_of(tmp_path / "three")
    (place / "nets.py").write_text("def make():\n    return 1\n")
    assert changed(before, place) == {"torch"}
    (place / "single.py").write_text("import time\n")
    assert changed(before, place) == {"torch", "second", "whole"}


BESIDE = Key("a", 50, 4, (Beside("b", 50, 2),))
POINTS = (
    Row(Key("a", 10, 1), 5, fingerprint="a1"), Row(Key("a", 20, 1), 3), Row(Key("b", 10, 1), 4, fingerprint="b1"),
    Row(BESIDE, 9, fingerprint="a1;b1"), Row(Key("c", 10, 1), 8, fingerprint="c1"),
)  # fmt: skip


@pytest.mark.parametrize(
    ("now", "found"),
    [
        ({"a": "a1", "b": "b1", "c": "c1"}, ()),
        ({"a": "a2", "c": "c1"}, ("a",)),
        ({"a": "a1", "b": "b2"}, ("b",)),
        ({"a": "a2", "b": "b2"}, ("a", "b")),
        # Models that are not measured now may be of any version.
        ({"d": "d1"}, ()),
    ],
)
def test_points_of_another_version_are_refused(tmp_path: Path, now: dict[str, str], found: tuple[str, ...]) -> None:
    file = tmp_path / "profiles.csv"
    write(file, POINTS)
    assert outdated(read(file), now) == found
    if not found:
        assert campaign.known(file, "CPU", now) == read(file) == POINTS
        return
    with pytest.raises(SpecError, match="of another version of this model") as told:
        campaign.known(file, "CPU", now)
    assert tuple(fault.path for fault in told.value.faults) == found
    assert "--fresh" in str(told.value.hint)


def test_points_are_taken_out_alone_and_as_neighbours_and_kept_aside(tmp_path: Path) -> None:
    file = tmp_path / "profiles.csv"
    assert take_out(file, ["b"]) is None
    write(file, POINTS)
    assert take_out(file, ["nobody"]) is None
    assert take_out(file, ["b"]) == tmp_path / "profiles.csv.1"
    assert read(file) == without(POINTS, ["b"]) == (*POINTS[:2], POINTS[4])
    assert read(tmp_path / "profiles.csv.1") == POINTS
    # Nothing that was kept is lost, and a profile without points is none.
    assert take_out(file, ["a", "c"]) == tmp_path / "profiles.csv.2"
    assert not file.exists()
    assert read(tmp_path / "profiles.csv.1") == POINTS


def test_a_profile_of_another_version_is_measured_anew_when_asked(tmp_path: Path) -> None:
    folder = project(tmp_path / "mix")
    (folder / "spec.yaml").write_text((folder / "spec.yaml").read_text().replace("KIND_GPU", "KIND_CPU"))
    now = fingerprints(load([folder / "spec.yaml"], [], {}))["bert"]
    write(folder / "new.csv", [Row(Key("bert", 100, 1), 5.0, gpu="CPU", fingerprint=now)])
    asked = ("profile", "--gpu", "none", "--profile", "new.csv", "--model", "bert", "--batch-size", "1", "--json")
    done = tritonkit(folder, *asked)
    assert (done.returncode, json.loads(done.stdout)[0]["latency_ms"]) == (0, 5.0), done.stderr
    more = ("--set", "models.bert.instance_group[0].count=2")
    refused = tritonkit(folder, *asked, *more)
    assert refused.returncode == 2, refused.stderr
    assert "new.csv: bert: its points are of another version of this model" in " ".join(refused.stderr.split())
    dry = tritonkit(folder, *asked, *more, "--fresh", "--dry-run")
    assert (dry.returncode, json.loads(dry.stdout)[0]["latency_ms"]) == (0, None), dry.stderr
    assert [row.latency_ms for row in read(folder / "new.csv")] == [5.0]
