"""A study's file: what it may say, what is wrong with it, and the plan that comes of it. Nothing runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tritonkit.bench import axes
from tritonkit.bench.axes import Deployment, combined
from tritonkit.bench.levels import Concurrency, Intervals, RequestRate
from tritonkit.bench.plan import Plan, shuffled
from tritonkit.bench.study import read_study
from tritonkit.errors import SpecError
from tritonkit.spec.loading import load

SPEC = """
version: 1
models:
  digits: {backend: onnxruntime, source: digits.onnx, dynamic_batching: {preferred_batch_size: [4]}}
  other: {backend: onnxruntime, source: digits.onnx, instance_group: 2, default_model_filename: "$$5"}
"""
HEAD = "version: 1\nspec: spec.yaml\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "spec.yaml").write_text(SPEC)
    return tmp_path


def plan(folder: Path, text: str, *assignments: str) -> Plan:
    (folder / "study.yaml").write_text(text)
    return read_study([folder / "study.yaml"], assignments, {"RATE": "40"}, folder / "out")


def faults(folder: Path, text: str) -> list[str]:
    with pytest.raises(SpecError) as caught:
        plan(folder, text)
    return [f"{fault.line}: {fault.path}: {fault.message}" for fault in caught.value.faults]


def test_every_combination_of_load_and_deployment(folder: Path) -> None:
    found = plan(
        folder,
        HEAD + "models: [digits]\n"
        "load:\n  {concurrency: 1:16:5, request_rate: ['${RATE}', 80], distribution: [constant, poisson],"
        " batch_size: [1, 2]}\n"
        "deployment:\n"
        "  models.digits.instance_group[0].count: [1, 2]\n"
        "  models.digits.dynamic_batching: [null, {max_queue_delay_microseconds: 100}]\n",
    )
    assert found.name == "study"
    assert len(found.deployments) == 4
    assert len(found.items) == 4 * 2 * (4 + 4)
    labels = [label for item in found.items for label in item.labels]
    assert len(set(labels)) == len(labels)
    assert all("/" not in label and len(label) < 250 for label in labels)
    loads = {item.levels[0].load for item in found.items}
    assert {Concurrency(1), Concurrency(16), RequestRate(40, "poisson"), RequestRate(80)} <= loads
    assert (found.warmup, found.repeats, found.wish.stability_percentage) == (2.0, 3, 10.0)


def test_ranges_are_texts_and_not_the_numbers_of_yaml_1_1(folder: Path) -> None:
    # YAML 1.1 reads 1:16:2 as 1 * 3600 + 16 * 60 + 2.
    found = plan(folder, HEAD + "models: [digits]\nload: {concurrency: 1:5:2}\n")
    assert [item.levels[0].load for item in found.items] == [Concurrency(1), Concurrency(3), Concurrency(5)]


def test_experiments_take_what_they_leave_out_from_the_study(folder: Path) -> None:
    found = plan(
        folder,
        HEAD + "models: [digits]\nload: {concurrency: [1, 8]}\nrepeats: 2\n"
        "experiments:\n"
        "  plain: {}\n"
        "  instances: {deployment: {'models.digits.instance_group[0].count': [1, 2]}}\n"
        "  rates: {models: [other], load: {request_rate: 10}}\n",
        "repeats=5",
    )
    by_experiment: dict[str, list[Any]] = {}
    for item in found.items:
        by_experiment.setdefault(item.experiment, []).append(item)
    assert {name: len(items) for name, items in by_experiment.items()} == {"plain": 2, "instances": 4, "rates": 1}
    assert by_experiment["rates"][0].levels[0].model == "other"
    assert found.repeats == 5


def test_a_point_that_two_experiments_share_is_measured_once(folder: Path) -> None:
    text = "models: [digits]\nexperiments: {a: {load: {concurrency: 1}}, b: {load: {concurrency: [1, 2]}}}\n"
    assert len(plan(folder, HEAD + text).items) == 2


def test_models_together_come_alone_first(folder: Path) -> None:
    found = plan(
        folder,
        HEAD + "together:\n"
        "  - {name: pair, models: {digits: {request_rate: 50, distribution: poisson}, other: {concurrency: 2}}}\n"
        "  - {name: mixed, models: [digits, other], workload: {preset: skewed, seconds: 5, interval: 1, seed: 1}}\n",
    )
    assert [tuple(level.model for level in item.levels) for item in found.items] == [
        ("digits",), ("other",), ("digits", "other"), ("digits",), ("other",), ("digits", "other"),
    ]  # fmt: skip
    pair, mixed = found.items[2], found.items[5]
    assert (pair.group, pair.levels[0].load, pair.levels[1].load) == (
        "pair",
        RequestRate(50, "poisson"),
        Concurrency(2),
    )
    waits = [level.load for level in mixed.levels]
    assert all(isinstance(load, Intervals) and load.seconds == 5 for load in waits)
    assert {load.file for load in waits if isinstance(load, Intervals)} == set(found.files)


def test_a_trace_is_played_back(folder: Path) -> None:
    (folder / "trace.csv").write_text("timestamp,model\n10.0,digits\n10.5,other\n11.0,digits\n12.0,other\n")
    found = plan(
        folder,
        HEAD + "models: [digits]\narrivals: {azure: {trace: trace.csv, seconds: 4}}\nload: {arrivals: azure}\n",
    )
    (item,) = found.items
    load_ = item.levels[0].load
    assert isinstance(load_, Intervals)
    assert (load_.per_second, load_.seconds) == (1.0, 4.0)
    # Waits between requests; the last leads back to the first.
    assert found.files[load_.file].split() == ["500000", "500000", "1000000", "2000000"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("modls: [digits]\nload: {concurrency: 1}\n", "3: modls: unknown key; did you mean 'models'?"),
        ("models: [digit]\nload: {concurrency: 1}\n", "3: models[0]: the spec has no model 'digit'; did you mean"),
        ("models: [digits]\nload: {concurency: 1}\n", "4: load.concurency: unknown key; did you mean 'concurrency'?"),
        ("models: [digits]\nload: {concurrency: 0}\n", "4: load.concurrency: '0': numbers must be above 0"),
        ("models: [digits]\nload: {concurrency: [1, a]}\n", "4: load.concurrency: '1,a': could not convert"),
        ("models: [digits]\nload: {protocol: http}\n", "4: load: no load: give concurrency, request_rate or arrivals"),
        ("models: [digits]\nload: {concurrency: 1, distribution: poisson}\n", "there is no request_rate"),
        ("models: [digits]\nload: {concurrency: 1, streaming: true}\n", "4: load.streaming: streams need gRPC"),
        ("models: [digits]\nload: {arrivals: x}\n", "4: load.arrivals[0]: the study has no arrivals 'x'"),
        ("models: [digits]\nload: {request_rate: 1, distribution: [psn]}\n", "'psn' is none of constant, poisson"),
        ("models: [digits]\nload: {concurrency: 1}\nload: {concurrency: 2}\n", "5: load: given twice"),
        ("models: [digits]\nload: {concurrency: 1}\nrepeats: 0\n", "5: repeats: expected greater than or equal to 1"),
        ("models: [digits]\nload: {concurrency: 1}\nurl: h:1\n", "5: url: a study measures one thing"),
        ("models: [digits]\nload: {concurrency: 1}\ntoken_file: t\n", "5: token_file: it is about a server that runs"),
        ("models: [digits]\nload: {concurrency: 1}\nmeasurement: {interval: 5}\n", "5: measurement.interval: unknown"),
        (
            "models: [digits]\nload: {concurrency: 1}\ndeployment: {models.digit.backend: [a]}\n",
            "deployment[\"models.digit.backend\"]: the spec has no such entry; did you mean 'digits'?",
        ),
        ("models: [digits]\nload: {concurrency: 1}\ndeployment: {models.digits.backend: a}\n", "expected a list"),
        ("models: [digits]\nload: {concurrency: 1}\ndeployment: {gpus: [0, 1]}\n", "as in [[0], [0, 1]]"),
        ("models: [digits]\nload: {concurrency: 1}\nvariants: [{name: a}, {name: a}]\n", "a second variant"),
        ("together: [{name: t, models: {digits: {concurrency: 1}}}]\n", "expected two models or more"),
        ("together: [{name: t, models: {digits: {concurrency: 1:2}, other: {concurrency: 1}}}]\n", "expected one load"),
        ("together: [{name: t, models: [digits, other], workload: hevy}]\n", "did you mean 'heavy'?"),
        ("together: [{name: t, models: [digits, other], workload: {preset: light, scale: 0}}]\n", "numbers above 0"),
        ("together: [{name: t, models: [digits, other], workload: {trace: no.csv}}]\n", "No such file"),
        ("models: [digits]\nload: {concurrency: 1}\nexperiments: {a: {lod: 1}}\n", "did you mean 'load'?"),
    ],
)
def test_faults_name_their_place_and_what_was_meant(folder: Path, text: str, expected: str) -> None:
    assert any(expected in fault for fault in faults(folder, HEAD + text)), faults(folder, HEAD + text)


def test_several_faults_come_together(folder: Path) -> None:
    found = faults(folder, HEAD + "models: [digit, othr]\nload: {concurrency: -1}\nseed: x\n")
    assert len(found) == 4


def test_no_spec_and_no_file(tmp_path: Path) -> None:
    (tmp_path / "study.yaml").write_text("version: 1\nspec: none.yaml\nmodels: [a]\nload: {concurrency: 1}\n")
    with pytest.raises(SpecError, match=r"none\.yaml: no such file"):
        read_study([tmp_path / "study.yaml"], [], {}, tmp_path)
    with pytest.raises(SpecError, match="no such file"):
        read_study([tmp_path / "other.yaml"], [], {}, tmp_path)


def applied(folder: Path, deployment: Deployment) -> Any:
    """The models' fields of the spec with a deployment's options, through the real overlays."""
    options = deployment.assignments(axes_of(folder))
    return {name: dict(model.fields) for name, model in load([folder / "spec.yaml"], options, {}).spec.models.items()}


def axes_of(folder: Path) -> Any:
    from tritonkit.spec.document import read

    return read(folder / "spec.yaml", {}).value


def test_a_value_takes_the_place_of_what_the_spec_says(folder: Path) -> None:
    def fields(values: dict[str, Any]) -> Any:
        (deployment,) = combined({path: [value] for path, value in values.items()}, [])
        return applied(folder, deployment)

    path = "models.digits.dynamic_batching"
    # Left empty it would still be on; null takes it out.
    assert "dynamic_batching" not in fields({path: None})["digits"]
    delay = {"max_queue_delay_microseconds": 5}
    assert fields({path: delay})["digits"]["dynamic_batching"] == delay
    assert fields({f"{path}.max_queue_delay_microseconds": 5})["digits"]["dynamic_batching"] == {
        "preferred_batch_size": [4], **delay,
    }  # fmt: skip
    # Where the spec has no list, or its short form, one is made; two axes of one item make one item.
    count, kind = "models.digits.instance_group[0].count", "models.digits.instance_group[0].kind"
    assert fields({count: 3, kind: "KIND_CPU"})["digits"]["instance_group"] == [{"count": 3, "kind": "KIND_CPU"}]
    assert fields({"models.other.instance_group[0].count": 3})["other"]["instance_group"] == [{"count": 3}]
    everywhere = fields({"models.*.max_batch_size": 7})
    assert [everywhere[name]["max_batch_size"] for name in ("digits", "other")] == [7, 7]
    # A dollar that the spec meant as one stays one.
    assert fields({"models.other.default_model_filename": "$x"})["other"]["default_model_filename"] == "$x"


def test_servers_go_by_name_or_all(folder: Path) -> None:
    spec = {"models": {}, "servers": [{"name": "a", "thread_percentage": 10}, {"name": "b"}]}
    (every,) = combined({"servers.*.thread_percentage": [40]}, [])
    assert [option for option in every.assignments(spec) if "=" in option] == [
        "servers[0].thread_percentage=40", "servers[1].thread_percentage=40",
    ]  # fmt: skip
    (one,) = combined({"servers.b.thread_percentage": [40]}, [])
    assert one.assignments(spec) == ["servers[1].thread_percentage=40"]
    gpus = combined({"gpus": [[0], [0, 1]]}, [])
    assert [deployment.gpus for deployment in gpus] == [("0",), ("0", "1")]
    assert [deployment.label for deployment in gpus] == ["gpus=0", "gpus=0-1"]


def test_labels_tell_deployments_apart() -> None:
    long = [{"preferred_batch_size": list(range(size))} for size in range(1, 40)]
    path = "models.a_model_with_a_rather_long_name.dynamic_batching"
    found = combined({path: [*long, None, {}]}, [("first", {}), ("second", {})])
    assert len({deployment.label for deployment in found}) == len(found) == 82
    assert all(len(deployment.label) <= 80 for deployment in found)
    assert axes.shown_value(None) == "left out"
    assert json.loads(dict(found[0].values)[path]) == long[0]


def test_the_order_is_shuffled_and_the_seed_decides() -> None:
    items = list(range(50))
    assert shuffled(items, 1, "a") == shuffled(items, 1, "a") != items
    assert sorted(shuffled(items, 1, "a")) == items
    assert shuffled(items, 2, "a") != shuffled(items, 1, "a") != shuffled(items, 1, "b")
