"""``tritonkit provision`` as people run it: on this machine, with no GPU, from stored profiles alone."""

from __future__ import annotations

import importlib
import json
import os
import re
import resource
import shlex
import textwrap
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import yaml
from profiled import TRUTHS, Truth, project, rows
from serving import tritonkit

from tritonkit import errors, provision
from tritonkit.errors import SpecError
from tritonkit.provision.choices import Terms
from tritonkit.provision.observing import SUMMARIES
from tritonkit.provision.profiles import read, write
from tritonkit.spec.loading import LoadedSpec, load
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
    command = f"tritonkit up spec.yaml plan.yaml {SUMMARIES}"
    assert done.stdout.splitlines()[-1] == f"wrote plan.yaml; serve it with: {command}"
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


def served(folder: Path, line: str) -> LoadedSpec:
    """The spec that ``up`` loads, by a line of a plan or of what was printed of it."""
    command = shlex.split(line.partition("erve it with")[2].partition(": ")[2].replace(" FILE", " plan.yaml"))
    assert (command[:2], command[-1]) == (["tritonkit", "up"], SUMMARIES)
    stated = [option for word, option in pairwise(command) if word == "--set"]
    files = [folder / name for name in command[2:] if name.endswith(".yaml")]
    loaded = load(files, stated, {})
    loaded.faults.raise_if_any()
    return loaded


@pytest.mark.parametrize(
    ("stated", "kept"),
    [
        ([], []),
        # A plan decides on batches: what was set is what it chose from.
        (["models.bert.max_batch_size=5"], []),
        (["models.bert.max_batch_size=15", "models.bert.dynamic_batching.max_queue_delay_microseconds=500"], []),
        (["models.bert.version_policy={latest: {num_versions: 2}}", "models.bert.max_batch_size=16"],
         ["models.bert.version_policy={latest: {num_versions: 2}}"]),
    ],
)  # fmt: skip
def test_what_is_served_is_what_was_planned_whatever_was_set(folder: Path, stated: list[str], kept: list[str]) -> None:
    (folder / "more.yaml").write_text("models:\n  captioner: {max_batch_size: 12}\n")
    options = [word for option in stated for word in ("--set", option)]
    done = tritonkit(folder, "provision", "spec.yaml", "more.yaml", *options, "-o", "plan.yaml")
    assert done.returncode == 0, done.stderr
    said = done.stdout.splitlines()[-1]
    assert [option for option in stated if option in said] == kept
    seats = json.loads(tritonkit(folder, "provision", "spec.yaml", "more.yaml", *options, "--json").stdout)["seats"]
    batches = {seat["model"]: seat["batch_size"] for seat in seats}
    assert batches["bert"] <= (5 if stated[:1] == ["models.bert.max_batch_size=5"] else 16)
    comment = (folder / "plan.yaml").read_text().splitlines()[1]
    for line in (said, comment):
        loaded = served(folder, line)
        assert {name: model.fields["max_batch_size"] for name, model in loaded.spec.models.items()} == batches
        batching = loaded.spec.models["bert"].fields["dynamic_batching"]
        assert not batching.get("max_queue_delay_microseconds")
        assert len(loaded.files) == 3
    # And it stays so when the spec takes more.
    change(folder, "max_batch_size: 16", "max_batch_size: 64")
    later = served(folder, said)
    assert {name: model.fields["max_batch_size"] for name, model in later.spec.models.items()} == batches


def test_what_is_set_over_a_plan_is_refused(folder: Path) -> None:
    option = "models.bert.dynamic_batching={max_queue_delay_microseconds: 500, preserve_ordering: true}"
    done = tritonkit(folder, "provision", "--set", option, "-o", "plan.yaml")
    assert (done.returncode, "the plan needs other values: models.bert.dynamic_batching" in done.stderr) == (2, True)
    assert not (folder / "plan.yaml").exists()


def test_a_command_of_several_lines_is_a_comment(folder: Path) -> None:
    option = "models.bert.version_policy={latest:\n {num_versions: 2}}"
    assert tritonkit(folder, "provision", "--set", option, "-o", "plan.yaml").returncode == 0
    assert set(yaml.safe_load((folder / "plan.yaml").read_text())) == {"version", "models", "servers"}


def test_what_a_plan_is_made_from_is_never_overwritten(folder: Path) -> None:
    (folder / "link.yaml").symlink_to("spec.yaml")
    before = {name: (folder / name).read_bytes() for name in ("spec.yaml", "profiles.csv")}
    for target in ("spec.yaml", "link.yaml", "./profiles.csv"):
        done = tritonkit(folder, "provision", "-o", target, "--force")
        assert (done.returncode, f"-o {Path(target)}: the plan is made from this file" in done.stderr) == (2, True)
    assert {name: (folder / name).read_bytes() for name in before} == before


def test_only_plans_are_replaced(folder: Path) -> None:
    """Whatever else a spec is made from: artifacts, sources, notes."""
    (folder / "model.onnx").write_bytes(b"\x08\x0a\xff weights")
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    for target in ("model.onnx", "src/model.py"):
        for options in ((), ("--force",)):
            done = tritonkit(folder, "provision", "-o", target, *options)
            words = f"-o {target}: is there already, and no plan that tritonkit made"
            assert (done.returncode, done.stdout, words in done.stderr) == (2, "", True)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_a_place_where_no_plan_can_stand_is_refused_before_anything_is_planned(folder: Path) -> None:
    # Whatever else is wrong is not looked at yet.
    (folder / "profiles.csv").unlink()
    for target, words in (("src", "is a folder"), ("none/plan.yaml", "there is no folder"),
                          ("spec.yaml/plan.yaml", "there is no folder")):  # fmt: skip
        done = tritonkit(folder, "provision", "-o", target)
        assert (done.returncode, f"-o {target}: {words}" in done.stderr) == (2, True)


def test_a_plan_behind_a_link_is_replaced_and_the_link_stays(folder: Path) -> None:
    (folder / "plans").mkdir()
    (folder / "plan.yaml").symlink_to("plans/first.yaml")
    assert tritonkit(folder, "provision", "-o", "plan.yaml").returncode == 0
    first = (folder / "plans/first.yaml").read_text()
    assert tritonkit(folder, "provision", "-o", "plan.yaml", "--force", "--gpus", "2").returncode == 0
    assert (folder / "plan.yaml").is_symlink()
    assert "--gpus 2" in (folder / "plans/first.yaml").read_text()
    assert "--gpus 2" not in first
    assert [path.name for path in (folder / "plans").iterdir()] == ["first.yaml"]


def test_ensembles_and_warm_ups_take_no_more_than_a_plan_leaves(folder: Path) -> None:
    change(folder, "  mobilenet:\n", "  mobilenet:\n    model_warmup:\n"
           "      - {name: most, batch_size: 16, inputs: {X: {data_type: TYPE_FP32, dims: [4], zero_data: true}}}\n"
           "      - {name: one, batch_size: 1, inputs: {X: {data_type: TYPE_FP32, dims: [4], zero_data: true}}}\n"
    )  # fmt: skip
    with (folder / "spec.yaml").open("a") as file:
        for name, step in (("whole", "mobilenet"), ("outer", "whole")):
            file.write(
                f"  {name}:\n    max_batch_size: 16\n"
                f"    ensemble: [{{model: {step}, input: {{X: X}}, output: {{Y: Y}}}}]\n"
                '    input: {X: "FP32[4]"}\n    output: {Y: "FP32[4]"}\n'
            )
    done = tritonkit(folder, "provision", "-o", "plan.yaml")
    assert done.returncode == 0, done.stderr
    models = yaml.safe_load((folder / "plan.yaml").read_text())["models"]
    batch = models["mobilenet"]["max_batch_size"]
    assert 1 < batch < 16
    assert [sample["batch_size"] for sample in models["mobilenet"]["model_warmup"]] == [batch, 1]
    assert models["mobilenet"]["model_warmup"][0]["inputs"]["X"]["zero_data"]
    assert (models["whole"], models["outer"]) == ({"max_batch_size": batch}, {"max_batch_size": batch})
    for name in ("mobilenet", "whole", "outer"):
        words = f"! {name}: requests with more than {batch} items are refused; the spec takes 16"
        assert words in done.stdout
    assert tritonkit(folder, "check", "spec.yaml", "plan.yaml").returncode == 0


def test_a_plan_that_triton_would_refuse_is_not_written(folder: Path) -> None:
    change(
        folder,
        "  mobilenet:\n",
        "  mobilenet:\n    dynamic_batching: {priority_levels: 2, default_priority_level: 3}\n",
    )
    done = tritonkit(folder, "provision", "-o", "plan.yaml")
    assert (done.returncode, "the plan was not written" in done.stderr) == (2, True)
    assert "spec.yaml:20: models.mobilenet.dynamic_batching.default_priority_level: " in done.stderr
    assert not (folder / "plan.yaml").exists()


def test_what_a_plan_cannot_account_for_is_refused_or_said(folder: Path) -> None:
    change(folder, "  bert:\n", "  bert:\n    sequence_batching: {}\n")
    change(folder, "  mobilenet:\n", "  mobilenet:\n    model_transaction_policy: {decoupled: true}\n")
    done = tritonkit(folder, "provision")
    assert (done.returncode, done.stdout) == (2, "")
    assert "models.bert.slo: its requests are parts of sequences" in done.stderr
    assert "models.mobilenet.slo: it is decoupled" in done.stderr
    done = tritonkit(folder, "profile", "--gpu", "none", "--dry-run", "--json", "--batch-size", "1,32")
    assert {row["model"] for row in json.loads(done.stdout)} == {"captioner", "resnet50"}
    assert "note: left out: bert: its requests are parts of sequences" in done.stderr
    assert "note: left out: mobilenet: it is decoupled" in done.stderr
    assert "note: left out: resnet50: batch 32, as it takes at most 16" in done.stderr
    done = tritonkit(folder, "profile", "--gpu", "none", "--dry-run", "--model", "bert")
    assert (done.returncode, "--model bert: cannot be measured: its requests" in done.stderr) == (2, True)
    done = tritonkit(folder, "profile", "--gpu", "none", "--dry-run", "--batch-size", "64")
    assert (done.returncode, "nothing is left to measure" in done.stderr) == (2, True)


def test_ensembles_and_instances_are_said_to_be_left_out_of_account(folder: Path) -> None:
    text = (folder / "spec.yaml").read_text()
    head, bert, rest = text.partition("  captioner:")
    (folder / "spec.yaml").write_text(head.replace("count: 1", "count: 4") + bert + rest)
    with (folder / "spec.yaml").open("a") as file:
        file.write(
            "  whole:\n    max_batch_size: 16\n    ensemble: [{model: small, input: {X: X}, output: {Y: Y}}]\n"
            '    input: {X: "FP32[4]"}\n    output: {Y: "FP32[4]"}\n    slo: {latency_p99: 60ms, rate: 10/s}\n'
            "  small:\n    {backend: python, source: src/, max_batch_size: 16, "
            'input: {X: "FP32[4]"}, output: {Y: "FP32[4]"}}\n'
        )
    whole = [replace(row, key=replace(row.key, model="whole")) for row in rows() if row.key.model == "bert"]
    write(folder / "profiles.csv", [*rows(), *(row for row in whole if not row.key.beside)])
    done = tritonkit(folder, "provision")
    assert done.returncode == 0, done.stderr
    assert "! bert: it has 4 instances; where each is a process of its own" in done.stdout
    assert "! whole: an ensemble is planned for as if it were one model" in done.stdout
    assert done.stdout.count("instances; where") == 1


def test_a_profile_of_two_devices_is_refused(folder: Path) -> None:
    named = [replace(row, gpu="NVIDIA H200") for row in rows()]
    write(folder / "profiles.csv", named)
    done = tritonkit(folder, "provision")
    assert (done.returncode, "planned from profiles.csv, measured on NVIDIA H200" in done.stdout) == (0, True)
    assert json.loads(tritonkit(folder, "provision", "--json").stdout)["device"] == "NVIDIA H200"
    assert "was measured on the CPU" not in done.stdout
    words = "profiles.csv was measured on the CPU: the plan says nothing of any GPU"
    write(folder / "profiles.csv", [replace(row, gpu="CPU") for row in rows()])
    assert f"\n! {words}\n" in tritonkit(folder, "provision").stdout
    assert words in json.loads(tritonkit(folder, "provision", "--json").stdout)["notes"]
    write(folder / "profiles.csv", [replace(named[0], gpu="CPU"), *named[1:]])
    done = tritonkit(folder, "provision")
    assert (done.returncode, "profiles.csv: was measured on CPU and NVIDIA H200" in done.stderr) == (2, True)


def test_a_gpu_that_is_not_here_is_named_before_anything_is_done(folder: Path) -> None:
    write(folder / "profiles.csv", [replace(row, gpu="NVIDIA H200") for row in rows()])
    for word in ("7", "0,1", "MIG-1"):
        done = tritonkit(folder, "profile", "--gpu", word, env={"CUDA_VISIBLE_DEVICES": ""})
        assert (done.returncode, f"error: --gpu {word}: " in done.stderr) == (2, True)
        assert "--gpu none measures on the CPU" in done.stderr
    assert not (folder / "model_repository").exists()
    done = tritonkit(folder, "profile", "--gpu", "None", "--dry-run")
    assert (done.returncode, "was measured on NVIDIA H200, and this is CPU" in done.stderr) == (2, True)


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


def test_models_without_an_slo_have_one_more_gpu_where_the_others_are_full(folder: Path) -> None:
    change(folder, "    slo: {latency_p99: 60ms, rate: 150/s}\n", "")
    # A profile of whole GPUs, so every model of the plan takes one.
    write(folder / "profiles.csv", [row for row in rows() if row.key.thread_percentage == 100])
    for gpus in ((), ("--gpus", "4")):
        done = tritonkit(folder, "provision", *gpus, "-o", "plan.yaml", "--force")
        assert (done.returncode, "3 GPUs (100 %, 100 %, 100 % given out)" in done.stdout) == (0, True), done.stderr
        assert "note: no slo is asked for bert: nothing is left for them on the GPUs" in done.stderr
        text = (folder / "plan.yaml").read_text()
        rest = {"name": "rest", "models": ["bert"], "gpus": [3], "thread_percentage": 100}
        assert (yaml.safe_load(text)["servers"][-1], "\n# 4 GPUs. " in text) == (rest, True)
    found = json.loads(tritonkit(folder, "provision", "--json").stdout)
    assert (found["gpus"], found["served_gpus"]) == (3, 4)
    done = tritonkit(folder, "provision", "--gpus", "3")
    assert "4 GPUs were needed by the best plan found, one of them for the models without an slo" in done.stderr
    assert (done.returncode, "hint: Give 4 GPUs (--gpus 4)" in done.stderr) == (7, True)


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
    for absurd in ("80", "500MiB"):
        done = tritonkit(folder, "provision", "--gpu-memory", absurd, env={"COLUMNS": "200"})
        assert (done.returncode, "1024 MiB of it are left to its driver" in done.stderr) == (2, True)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("latency_p99: 12ms", "latency_p99: 12",
         "spec.yaml:26: models.mobilenet.slo.latency_p99: expected a time with its unit (us, ms or s), as in 20ms"),
        ("slo: {latency_p99: 12ms, rate: 400/s}", "slo: 12ms",
         "models.mobilenet.slo: expected latency_p99 and rate, as in {latency_p99: 20ms, rate: 300/s}, found '12ms'"),
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
    assert "hint: Measure one with: tritonkit profile spec.yaml --profile other.csv\n" in done.stderr
    (folder / "spec.yaml").rename(folder / "mine.yaml")
    option = "models.bert.max_batch_size=8"
    done = tritonkit(folder, "provision", "mine.yaml", "--set", option, "--profile", "other.csv")
    assert f"hint: Measure one with: tritonkit profile mine.yaml --set {option} --profile other.csv\n" in done.stderr


def test_models_that_were_not_measured_are_named_with_the_command_that_does(folder: Path) -> None:
    left = [row for row in rows() if row.key.model not in ("bert", "captioner") and not row.key.beside]
    write(folder / "part.csv", left)
    done = tritonkit(folder, "provision", "--profile", "part.csv")
    assert (done.returncode, done.stderr.count("part.csv has no point of this model")) == (2, 2)
    command = "tritonkit profile spec.yaml --profile part.csv"
    assert f"hint: Measure what is missing with: {command} --model bert --model captioner\n" in done.stderr
    write(folder / "part.csv", [replace(row, gpu="CPU") for row in left])
    done = tritonkit(folder, "provision", "--profile", "part.csv")
    assert f"hint: Measure what is missing with: {command} --gpu none --model bert --model captioner\n" in done.stderr


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("model;thread_percentage;batch_size;latency_ms\nbert;10;1;5\n", "separated by ';'"),
        (f"model,thread_percentage,batch_size,latency_ms\nbert,10,1,5\n{'b' * 140_000},10,1,5\n",
         "profiles.csv:3: is no line of a CSV"),
        ("model,thread_percentage,batch_size,latency_ms\nbert,10,1000000000,5\n",
         "profiles.csv:2: batch_size: expected a batch of at most 8192"),
        ("model,thread_percentage,batch_size,latency_ms\nbert,10,1,1e-300\n",
         "profiles.csv:2: latency_ms: expected at least 1e-06"),
        ("model,thread_percentage,batch_size,latency_ms\nbert,10,1,nan\n",
         "profiles.csv:2: latency_ms: expected a number above 0"),
        ("model,thread_percentage,batch_size,latency_ms\nbert,10,1,1_0\n",
         "profiles.csv:2: latency_ms: expected a number"),
        ("model,thread_percentage,batch_size,latency_ms,beside\nbert,10,1,5,a:10:9999\n",
         "profiles.csv:2: beside: expected a batch of at most 8192"),
    ],
)  # fmt: skip
def test_files_that_no_search_would_end_with_are_refused(folder: Path, text: str, words: str) -> None:
    (folder / "profiles.csv").write_text(text)
    with pytest.raises(SpecError) as refused:
        read(folder / "profiles.csv")
    assert words in str(refused.value)


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
    for time in ("20", "20m", "-3ms", "ms", 20, None, True, "0ms", "0.0001us", "9" * 400 + "s", "2h", "٣ms", "3601s"):
        with pytest.raises(ValueError, match="expected a time"):
            milliseconds(time)
    for rate in ("300", "300/h", "s", "-1/s", 300.0, "0/s", f"0.{'0' * 170}1/s", "9" * 400 + "/s", "٣/s", "0.01/min"):
        with pytest.raises(ValueError, match="expected a rate"):
            per_second(rate)


def test_an_slo_is_no_field_of_triton(folder: Path) -> None:
    change(folder, "slo: {latency_p99: 12ms, rate: 400/s}", "slo: 12ms")
    loaded = load([folder / "spec.yaml"], [], {})
    with pytest.raises(SpecError, match=r"models\.mobilenet\.slo: expected"):
        loaded.faults.raise_if_any()


def test_what_the_package_shows_runs(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    shown = textwrap.dedent((provision.__doc__ or "").split("::\n")[1].split("Nothing here")[0])
    names = {name: importlib.import_module(f"tritonkit.provision.{name}") for name in
             ("objectives", "overlay", "packing", "prediction", "profiles")}  # fmt: skip
    exec(shown, {"os": os, "Path": Path, "load": load, "Terms": Terms, **names})  # noqa: S102
    assert yaml.safe_load(capsys.readouterr().out)["servers"]


def test_the_extra_leaves_the_servers_numpy_alone() -> None:
    text = (Path(__file__).parent.parent / "pyproject.toml").read_text()
    wanted = dict(re.findall(r'^(server|provision) = .*"numpy([^"]*)"', text, re.MULTILINE))
    assert wanted == {"server": ">=1.26,<2", "provision": ">=1.26,<2"}


def test_every_exit_code_stands_in_the_readme() -> None:
    text = (Path(__file__).parent.parent / "README.md").read_text().partition("Exit codes: ")[2].partition("\n\n")[0]
    codes = {kind.exit_code for kind in vars(errors).values() if isinstance(kind, type) and hasattr(kind, "exit_code")}
    assert {int(code) for code in re.findall(r"(?:^|, )([0-9]+) ", text)} == codes
