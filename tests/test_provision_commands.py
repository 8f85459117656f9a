"""``tritonkit provision`` as people run it: on this machine, with no GPU, from stored profiles alone."""

from __future__ import annotations

import json
import resource
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from profiled import TRUTHS, Truth, project, rows
from serving import tritonkit

from tritonkit.errors import SpecError
from tritonkit.provision.profiles import write
from tritonkit.spec.loading import load
from tritonkit.spec.objectives import milliseconds, per_second


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return project(tmp_path / "mix")


def change(folder: Path, old: str, new: str) -> None:
    spec = folder / "spec.yaml"
    assert old in spec.read_text()
    spec.write_text(spec.read_text().replace(old, new))


def test_a_plan_is_a_table_that_explains_itself(folder: Path) -> None:
    done = tritonkit(folder, "provision", env={"COLUMNS": "80"})
    assert (done.returncode, done.stderr) == (0, "")
    lines = [line.split() for line in done.stdout.splitlines() if line.strip()]
    assert lines[1] == ["GPU", "model", "%", "batch", "rate/s", "load", "takes", "waits", "p99", "SLO"]
    shown = {line[1]: line for line in lines if line[0] == "0"}
    assert set(shown) == set(TRUTHS)
    for name, slo in (("bert", 60), ("captioner", 400), ("mobilenet", 12), ("resnet50", 30)):
        takes, waits, p99, limit = (float(word) for word in shown[name][6:])
        assert takes + waits == pytest.approx(p99, abs=0.011)
        assert limit == slo
        assert p99 < limit
        assert f"\n  {name} on GPU 0: " in done.stdout
    assert "1 GPU (" in done.stdout
    assert "no plan has fewer" in done.stdout


def test_a_plan_as_json_says_the_same_every_time(folder: Path) -> None:
    first, second = (json.loads(tritonkit(folder, "provision", "--json").stdout) for _ in range(2))
    assert first.pop("seconds") < 10
    second.pop("seconds")
    assert first == second
    assert (first["gpus"], first["fewest_proven"], first["unplanned"]) == (1, True, [])
    assert [seat["model"] for seat in first["seats"]] == sorted(TRUTHS)
    assert all(seat["margin_ms"] > 0 and seat["why"] for seat in first["seats"])
    assert first["terms"]["memory_mib"] == 81_920 - 1024


def test_the_new_spec_is_one_that_up_runs(folder: Path) -> None:
    before = (folder / "spec.yaml").read_text()
    done = tritonkit(folder, "provision", "spec.yaml", "-o", "plan.yaml")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "wrote plan.yaml; serve it with: tritonkit up spec.yaml plan.yaml"
    assert (folder / "spec.yaml").read_text() == before
    text = (folder / "plan.yaml").read_text()
    assert text.startswith("# Made by: tritonkit provision spec.yaml -o plan.yaml\n")
    loaded = load([folder / "spec.yaml", folder / "plan.yaml"], [], {})
    loaded.faults.raise_if_any()
    seats = json.loads(tritonkit(folder, "provision", "--json").stdout)["seats"]
    planned = {seat["model"]: (seat["gpu"], seat["thread_percentage"], seat["batch_size"]) for seat in seats}
    batches = {name: model.fields["max_batch_size"] for name, model in loaded.spec.models.items()}
    assert {
        entry.models[0]: (entry.gpus[0], entry.thread_percentage, batches[entry.models[0]])
        for entry in loaded.spec.servers or ()
        if entry.models and entry.gpus
    } == planned
    shown = json.loads(
        tritonkit(folder, "up", "spec.yaml", "plan.yaml", "--dry-run", "--json", "--gpus", "none").stdout
    )
    servers = [process["name"] for process in shown["processes"] if process["name"] != "gateway"]
    assert sorted(servers) == sorted(TRUTHS)
    again = tritonkit(folder, "provision", "-o", "plan.yaml")
    assert (again.returncode, "there already" in again.stderr) == (2, True)
    assert tritonkit(folder, "provision", "-o", "plan.yaml", "--force").returncode == 0


def test_batching_is_made_what_the_plan_counts_on(folder: Path) -> None:
    change(folder, "  mobilenet:\n", "  mobilenet:\n    dynamic_batching: {preferred_batch_size: [2, 8, 16], "
           "max_queue_delay_microseconds: 500}\n")  # fmt: skip
    change(folder, "  bert:\n", '  bert:\n    dynamic_batching: {}\n    parameters: {batch_buckets: "1, 2, 16"}\n')
    assert tritonkit(folder, "provision", "-o", "plan.yaml").returncode == 0
    plan = yaml.safe_load((folder / "plan.yaml").read_text())
    batch = plan["models"]["mobilenet"]["max_batch_size"]
    assert 2 <= batch < 8
    assert plan["models"]["mobilenet"]["dynamic_batching"] == {
        "max_queue_delay_microseconds": 0, "preferred_batch_size": [2],
    }  # fmt: skip
    assert "dynamic_batching" not in plan["models"]["bert"]
    # A backend refuses sizes above max_batch_size.
    batch = plan["models"]["bert"]["max_batch_size"]
    assert 2 < batch < 16
    assert plan["models"]["bert"]["parameters"] == {"batch_buckets": f"1,2,{batch}"}
    assert plan["models"]["resnet50"]["dynamic_batching"] == {}


def test_replicas_of_a_model_are_one_server_on_several_gpus(folder: Path) -> None:
    change(folder, "rate: 300/s", "rate: 9000/s")
    assert tritonkit(folder, "provision", "-o", "plan.yaml").returncode == 0
    servers = yaml.safe_load((folder / "plan.yaml").read_text())["servers"]
    assert sum(len(server["gpus"]) for server in servers if server["models"] == ["resnet50"]) == 3


def test_models_without_an_slo_share_what_is_left(folder: Path) -> None:
    change(folder, "    slo: {latency_p99: 60ms, rate: 150/s}\n", "")
    done = tritonkit(folder, "provision", "-o", "plan.yaml")
    assert done.returncode == 0
    assert "note: no slo is asked for bert: they share what is left of GPU 0" in done.stderr
    servers = yaml.safe_load((folder / "plan.yaml").read_text())["servers"]
    assert servers[-1]["name"] == "rest"
    assert servers[-1]["models"] == ["bert"]
    assert sum(server["thread_percentage"] for server in servers) == 100
    assert tritonkit(folder, "up", "spec.yaml", "plan.yaml", "--dry-run", "--gpus", "none").returncode == 0


def test_what_was_assumed_is_said(folder: Path) -> None:
    (folder / "profiles.csv").write_text(
        "model,thread_percentage,batch_size,latency_ms\n"
        + "".join(
            f"{row.key.model},{row.key.thread_percentage:g},{row.key.batch_size},{row.latency_ms}\n"
            for row in rows()
            if not row.key.beside
        )
    )
    done = tritonkit(folder, "provision")
    assert done.returncode == 0
    for name in TRUTHS:
        assert f"! {name}: its influence on neighbours, or theirs on it, was not measured and is assumed" in done.stdout
        assert f"! {name}: its memory was not measured" in done.stdout


def test_memory_that_is_not_known_is_said(folder: Path) -> None:
    write(folder / "profiles.csv", [replace(row, gpu_memory_mib=None) for row in rows()])
    assert "the memory of a GPU is not known" in tritonkit(folder, "provision").stderr
    done = tritonkit(folder, "provision", "--gpu-memory", "12GiB", "--json")
    assert (done.returncode, json.loads(done.stdout)["gpus"]) == (0, 2)
    assert tritonkit(folder, "provision", "--gpu-memory", "much").returncode == 2


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("latency_p99: 12ms", "latency_p99: 12",
         "spec.yaml:26: models.mobilenet.slo.latency_p99: expected a time with its unit (us, ms or s), as in 20ms"),
        ("rate: 300/s", "rate: 300",
         "models.resnet50.slo.rate: expected a rate with its unit (/s or /min), as in 300/s, found 300"),
        ("rate: 300/s", "rate: 0/s", "models.resnet50.slo.rate: expected a rate above 0"),
        ("latency_p99: 12ms", "latency_p99: 0ms", "models.mobilenet.slo.latency_p99: expected a time above 0"),
        ("latency_p99: 12ms", "latency_p95: 12ms",
         "models.mobilenet.slo.latency_p95: unknown key; did you mean 'latency_p99'?"),
        ("latency_p99: 12ms, ", "", "models.mobilenet.slo.latency_p99: is missing"),
        ("  bert:", "  bort:",
         "models.bort.slo: profiles.csv has no point of this model; did you mean 'bert'?"),
    ],
)  # fmt: skip
def test_objectives_that_are_wrong_are_named(folder: Path, old: str, new: str, words: str) -> None:
    change(folder, old, new)
    done = tritonkit(folder, "provision")
    assert (done.returncode, done.stdout) == (2, "")
    assert words in done.stderr


def test_a_spec_without_objectives_is_told_how_one_looks(folder: Path) -> None:
    spec = folder / "spec.yaml"
    spec.write_text("\n".join(line for line in spec.read_text().splitlines() if "slo" not in line))
    done = tritonkit(folder, "provision")
    assert done.returncode == 2
    assert "spec.yaml:2: models: no model has an slo; give one its latency and its rate: slo: {" in done.stderr


def test_a_profile_that_is_wrong_or_missing_is_named(folder: Path) -> None:
    with (folder / "profiles.csv").open("a") as file:
        file.write("bert,0,1,5\n")
    lines = len((folder / "profiles.csv").read_text().splitlines())
    done = tritonkit(folder, "provision")
    assert (done.returncode, f"profiles.csv:{lines}: thread_percentage: expected a number" in done.stderr) == (2, True)
    done = tritonkit(folder, "provision", "--profile", "other.csv")
    assert (done.returncode, "other.csv: no such profile file" in done.stderr) == (2, True)
    assert "tritonkit profile spec.yaml" in done.stderr


def test_a_profile_with_larger_batches_than_the_model_takes_is_used_as_far_as_it_goes(folder: Path) -> None:
    assert tritonkit(folder, "provision", "--set", "models.bert.max_batch_size=2", "--json").returncode == 0
    seats = json.loads(tritonkit(folder, "provision", "--set", "models.bert.max_batch_size=2", "--json").stdout)[
        "seats"
    ]
    assert seats[0]["batch_size"] <= 2
    only_large = [row for row in rows() if row.key.model != "bert" or row.key.batch_size == 16]
    write(folder / "profiles.csv", only_large)
    done = tritonkit(folder, "provision", "--set", "models.bert.max_batch_size=2")
    assert (done.returncode, "has no batch that this model takes: max_batch_size is 2" in done.stderr) == (2, True)


def test_what_cannot_be_done_names_the_model_and_what_would_fit(folder: Path) -> None:
    change(folder, "latency_p99: 30ms, rate: 300/s", "latency_p99: 2ms, rate: 300/s")
    done = tritonkit(folder, "provision")
    assert (done.returncode, done.stdout) == (7, "")
    assert "resnet50: an SLO of 2 ms cannot be met at any rate" in done.stderr
    assert "hint: What would fit resnet50: a latency_p99 of" in done.stderr
    change(folder, "latency_p99: 2ms, rate: 300/s", "latency_p99: 30ms, rate: 9000/s")
    done = tritonkit(folder, "provision", "--gpus", "2")
    assert done.returncode == 7
    assert "resnet50: 9000/s cannot be served within 30 ms, not with 2 GPUs of its own" in done.stderr
    assert not (folder / "plan.yaml").exists()


def test_forty_models_are_planned_within_ten_seconds(tmp_path: Path) -> None:
    truths = {
        f"m{number:02}": Truth(0.01, 15 + number, 40 + 2 * number, 5, 0.5, alpha=0.2 + number / 100)
        for number in range(40)
    }
    folder = project(tmp_path / "fleet", truths)
    body = "backend: python\n    source: src/\n    max_batch_size: 16"
    models = "".join(f"  {name}:\n    {body}\n    slo: {{latency_p99: 60ms, rate: 120/s}}\n" for name in truths)
    (folder / "spec.yaml").write_text(f"version: 1\nmodels:\n{models}")
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = tritonkit(folder, "provision", "--json")
    found = json.loads(done.stdout)
    assert (len(found["seats"]) >= 40, found["gpus"] <= 8) == (True, True)
    # Others may use the machine: what counts is that the whole command, imports included, is far from its limit.
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 10


def test_times_and_rates() -> None:
    assert [milliseconds(text) for text in ("20ms", "500us", "1.5s", "2 s")] == [20, 0.5, 1500, 2000]
    assert [per_second(text) for text in ("300/s", "900/min", "0.5 /s")] == [300, 15, 0.5]
    for time in ("20", "20m", "-3ms", "ms", 20, None, True):
        with pytest.raises(ValueError, match="expected a time"):
            milliseconds(time)
    for rate in ("300", "300/h", "s", "-1/s", 300.0):
        with pytest.raises(ValueError, match="expected a rate"):
            per_second(rate)


def test_an_slo_is_no_field_of_triton(folder: Path) -> None:
    change(folder, "slo: {latency_p99: 12ms, rate: 400/s}", "slo: 12ms")
    loaded = load([folder / "spec.yaml"], [], {})
    with pytest.raises(SpecError, match=r"models\.mobilenet\.slo: expected"):
        loaded.faults.raise_if_any()
