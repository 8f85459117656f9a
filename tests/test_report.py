"""What a report says of a study, in words, tables and Markdown, and what other tools are given of it."""

from __future__ import annotations

import base64
import json
import shlex
import subprocess
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import numpy as np
import pytest
import yaml
from report_studies import NASTY, nasty, record, repeat, study, together, troubled, varied, write
from typer.testing import CliRunner, Result

from tritonkit.bench import interchange_perf_analyzer, markdown
from tritonkit.bench.interchange_aiperf import argv
from tritonkit.bench.interchange_model_analyzer import config
from tritonkit.bench.objective import read_objective
from tritonkit.bench.records import Load, Record, Study, load
from tritonkit.bench.report import html
from tritonkit.bench.report_effects import effects
from tritonkit.bench.report_front import front
from tritonkit.bench.report_summary import summary
from tritonkit.bench.report_tables import tables
from tritonkit.cli.app import app
from tritonkit.client.endpoint import Endpoint
from tritonkit.errors import BenchmarkFailed, SpecError
from tritonkit.serve import Deployment
from tritonkit.tools.perf_analyzer import PerfAnalyzer

# As perf_analyzer 2.51 writes them: with its own statistics, without, and by request rate.
VERBOSE = """\
Concurrency,Inferences/Second,Client Send,Network+Server Send/Recv,Server Queue,Server Compute Input,Server Compute \
Infer,Server Compute Output,Client Recv,p50 latency,p90 latency,p95 latency,p99 latency,Avg latency,request/response,\
response wait
1,500.5,10,200,50,20,1500,15,5,1700,2100,2400,3300,1800,0,0
4,1500.25,12,220,900,22,1520,16,6,2500,3100,3400,5300,2690,0,0
"""
RATE = "Request Rate,Inferences/Second,p50 latency,p90 latency,p95 latency,p99 latency\n120,119.9,900,1000,1100,1500\n"


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


def words(held: Study, *limits: str) -> str:
    objective = read_objective("max-throughput", limits)
    assert objective is not None
    return "\n".join(sentence.text for sentence in summary(held, objective.limits))


def test_the_best_point_is_the_fastest_within_the_limit() -> None:
    held = study(varied())
    unlimited, limited = words(held), words(held, "p99<10ms")
    assert "instance_group[0].count 4, 16 concurrent" in unlimited.splitlines()[0]
    assert "with p99<10ms" in limited.splitlines()[0]
    said = limited.splitlines()[0]
    fit = [each for each in held.records if each.repeats[1].latency_p99 < 10_000]
    assert said != unlimited.splitlines()[0]
    assert any(
        f"count {each.configuration['models.digits.instance_group[0].count']}, {each.load}" in said for each in fit
    )
    assert "No sound point of digits has p99<1us; the lowest p99 is that of" in words(held, "p99<1us")


def test_doubtful_points_are_never_recommended() -> None:
    tempting = record("digits", 8, [1e6], status="overloaded", notes=("served half",), label="tempting")
    held = study([*varied(), tempting])
    assert "1e+06" not in words(held).splitlines()[0]
    assert tempting.label not in front(held.records)
    assert "digits, 8 concurrent: served half" in words(held)


def test_every_status_is_told_with_its_reason() -> None:
    told = words(study(troubled()))
    for reason in ("the server does not answer", "DYN02 too large", "served 600 of 900/s", "1 point unstable"):
        assert reason in told
    assert "at all" not in told


def test_what_is_not_measured_yet_is_told() -> None:
    held = study(varied(), planned=["x"] * 20, state="interrupted")
    assert "5 of 20 points were not measured: interrupted." in words(held)


def test_the_front_is_of_points_that_nothing_beats() -> None:
    points = {"a": (100, 10), "b": (200, 20), "c": (150, 30), "d": (200, 25), "e": (50, 10)}
    records = [
        record("m", 1, [], label=label, repeats=(repeat(rate, 1, latency_p99=time),))
        for label, (rate, time) in points.items()
    ]
    assert front(records) == {"a", "b"}


def test_effects_hold_all_else_equal() -> None:
    found = {(each.axis, each.after): each for each in effects(varied())}
    four = found["configuration instance_group[0].count", "4"]
    assert four.points == 5
    ratios = []
    for level in (1, 2, 4, 8, 16):
        one, other = (
            next(
                each.repeats
                for each in varied()
                if each.load.value == level and list(each.configuration.values()) == [count]
            )
            for count in (1, 4)
        )
        ratios.append(np.median([each.throughput for each in other]) / np.median([each.throughput for each in one]))
    assert four.changes["throughput"] == pytest.approx(np.exp(np.mean(np.log(ratios))) - 1)
    assert found["concurrency", "16"].before == "1"


def test_named_deployments_are_an_axis_of_their_own() -> None:
    def deployed(name: str, count: int, rate: float) -> Record:
        return record("m", 1, [rate] * 3, variant=name, configuration={"models.m.instance_group": count}, label=name)

    (found,) = effects([deployed("small", 1, 100), deployed("large", 4, 300)])
    assert (found.axis, found.before, found.after) == ("deployment", "small", "large")
    assert found.changes["throughput"] == pytest.approx(2.0)


def test_tables_hold_every_point() -> None:
    held = tables(nasty())
    count = len(nasty().records)
    assert len(held["results"].rows) == count
    assert all(len(row) == len(table.columns) for table in held.values() for row in table.rows)
    assert "pareto" in held["results"].columns
    assert "p99.9_us" in held["quantiles"].columns
    assert {row[0] for row in held["interference"].rows} == {"big", "small"}


def test_the_page_needs_nothing_from_elsewhere() -> None:
    text = html(nasty())
    assert text.count("<script") == 3
    for forbidden in ("src=", "@import", "url(", '<link rel="stylesheet'):
        assert forbidden not in text.replace("default-src", "").split("<script")[0]
    assert "default-src 'none'" in text


def test_report_writes_into_the_studys_folder(tmp_path: Path) -> None:
    folder = write(tmp_path / "results", nasty())
    done = run("report", str(folder), "--subject-to", "p99<20ms")
    assert done.exit_code == 0, done.output
    assert "with p99&lt;20ms" in (folder / "report.html").read_text()
    done = run("report", str(folder), "-o", str(tmp_path / "missing" / "report.html"))
    assert done.exit_code == BenchmarkFailed.exit_code
    assert "cannot be written" in done.output
    assert run("report", str(folder), "--subject-to", "p99<20").exit_code == SpecError.exit_code


def test_a_folder_without_a_study(tmp_path: Path) -> None:
    done = run("report", str(tmp_path))
    assert done.exit_code == BenchmarkFailed.exit_code
    assert "holds no study" in done.output
    done = run("report", str(tmp_path / "nothing"))
    assert done.exit_code == BenchmarkFailed.exit_code
    assert "no such file or folder" in done.output


def test_markdown_is_a_table_whatever_models_are_called(tmp_path: Path) -> None:
    text = markdown.report(study([record(f"a|b\n{NASTY}", 1, [100.0] * 3), *troubled(), *together()], name="x | y"))
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert len({line.replace("\\|", "").count("|") for line in lines}) == 1
    assert "<script>" not in text.replace("\\<", "")
    done = run("report", str(write(tmp_path / "results", nasty())), "--markdown")
    assert done.exit_code == 0
    assert done.stdout.startswith("### ")


def test_csv_of_perf_analyzer(tmp_path: Path) -> None:
    (tmp_path / "digits.csv").write_text(VERBOSE)
    (tmp_path / "other.csv").write_text(RATE)
    held = interchange_perf_analyzer.read([tmp_path / "digits.csv", tmp_path / "other.csv"])
    assert [(each.model, each.load.kind, each.load.value) for each in held.records] == [
        ("digits", "concurrency", 1), ("digits", "concurrency", 4), ("other", "request_rate", 120),
    ]  # fmt: skip
    four = held.records[1].repeats[0]
    assert (four.throughput, four.latency_p99, four.latency_avg) == (1500.25, 5300, 2690)
    assert four.parts["queue"] == 900
    assert four.compute == 22 + 1520 + 16
    assert held.records[2].repeats[0].latency_avg is None
    assert held.records[2].repeats[0].quantiles == {50.0: 900, 90.0: 1000, 95.0: 1100, 99.0: 1500}
    for name in ("report.html", "report.md"):
        done = run(
            "report",
            *map(str, tmp_path.glob("*.csv")),
            "-o",
            str(tmp_path / name),
            *(["--markdown"] * (name[-1] == "d")),
        )
        assert done.exit_code == 0, done.output
    assert "1500.2" in (tmp_path / "report.html").read_text()


def test_files_of_one_model_are_repeats(tmp_path: Path) -> None:
    for index in range(3):
        (tmp_path / f"{index}.csv").write_text(VERBOSE)
    held = interchange_perf_analyzer.read(sorted(tmp_path.glob("*.csv")), model="digits")
    assert [len(each.repeats) for each in held.records] == [3, 3]


@pytest.mark.parametrize(
    ("text", "said"),
    [("", "no row"), ("a,b\n1,2\n", "Concurrency or Request Rate"), ("Concurrency,Inferences/Second\n1,2\n", "p50"),
     (VERBOSE.replace("500.5", "many"), "many"), (VERBOSE.replace("\n4,", "\nfour,"), "four")],
)  # fmt: skip
def test_a_csv_of_something_else(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "x.csv").write_text(text)
    done = run("report", str(tmp_path / "x.csv"))
    assert done.exit_code == BenchmarkFailed.exit_code
    assert said in done.output
    assert "x.csv" in done.output


def test_a_real_csv_is_read(measured_server: Deployment, perf_analyzer: PerfAnalyzer, tmp_path: Path) -> None:
    data = tmp_path / "data.json"
    data.write_text(json.dumps({"data": [{"X": [1.0, 2.0, 3.0, 4.0]}]}))
    line = [str(perf_analyzer.binary), "-m", "add", "-u", measured_server.http]
    # Windows of so many requests, not of a time in which a busy machine may answer none.
    line += ["--measurement-mode", "count_windows", "--measurement-request-count", "50"]
    line += ["-s", "1000000", "-r", "3", "--concurrency-range", "1:2", "--input-data", str(data), "--verbose-csv"]
    line += ["-f", str(tmp_path / "add.csv")]
    # Its exit code says nothing.
    done = subprocess.run(line, env=dict(perf_analyzer.env), capture_output=True, text=True, check=False, timeout=60)
    assert (tmp_path / "add.csv").is_file(), done.stdout + done.stderr
    held = interchange_perf_analyzer.read([tmp_path / "add.csv"])
    assert [each.load.value for each in held.records] == [1, 2]
    for each in held.records:
        assert each.repeats[0].throughput > 0
        assert set(each.repeats[0].parts) >= {"queue", "compute_infer", "network"}


def test_model_analyzers_configuration() -> None:
    records = [
        record(
            "digits", level, [100.0], batch_size=batch, label=f"{count}-{level}-{batch}",
            configuration={
                "models.digits.instance_group[0].count": count,
                "models.digits.dynamic_batching.max_queue_delay_microseconds": 100,
                "servers.a.thread_percentage": 50,
            },
            repeats=(repeat(100, 10, argv=(("perf_analyzer", "--input-data", "r/inputs/digits.json"),)),),
        )
        for count in (1, 2) for level in (1, 8) for batch in (1, 16)
    ]  # fmt: skip
    poisson = record("other", 1, [1.0], load=Load("request_rate", 120.0, "poisson"), shared_memory="system", label="o")
    objective = read_objective("max-throughput", ["p99<20ms"])
    assert objective is not None
    text = config(study([*records, poisson, *together()]), Path("/data"), "models", objective.limits)
    assert yaml.safe_load(text) == {
        "model_repository": "models",
        "run_config_search_disable": True,
        "client_protocol": "http",
        "constraints": {"perf_latency_p99": {"max": 20}},
        "profile_models": {
            "digits": {
                "parameters": {"batch_sizes": [1, 16], "concurrency": [1, 8]},
                "model_config_parameters": {
                    "instance_group": [[{"count": 1}], [{"count": 2}]],
                    "dynamic_batching": {"max_queue_delay_microseconds": 100},
                },
                "perf_analyzer_flags": {"input-data": "/data/digits.json"},
            },
            "small": {"parameters": {"batch_sizes": [1], "concurrency": [4]}},
            "big": {"parameters": {"batch_sizes": [1], "concurrency": [4]}},
        },
    }
    comments = [line for line in text.splitlines() if line.startswith("# left out")]
    assert any("servers.a.thread_percentage" in line for line in comments)
    assert any("loaded together" in line for line in comments)
    assert any("request_rate" in line for line in comments)
    assert yaml.safe_load(config(study([poisson]), Path("/data"), "models"))["profile_models"] == {
        "other": {
            "parameters": {"batch_sizes": [1], "request_rate": [120]},
            "perf_analyzer_flags": {"request-distribution": "poisson", "shared-memory": "system"},
        },
    }


def test_convert_prints_or_writes(tmp_path: Path) -> None:
    folder = write(tmp_path / "results", study(varied()))
    printed = run("convert", str(folder), "--to", "model-analyzer")
    assert printed.exit_code == 0
    written = run("convert", str(folder), "--to", "model-analyzer", "-o", str(tmp_path / "config.yaml"))
    assert written.exit_code == 0
    assert (tmp_path / "config.yaml").read_text() == printed.stdout


def sent(tmp_path: Path, values: dict[str, Any], **changes: Any) -> Record:
    """A point whose input data lies in a file."""
    (tmp_path / "s" / "inputs").mkdir(parents=True)
    (tmp_path / "s" / "inputs" / "data.json").write_text(json.dumps({"data": [values]}))
    line = (("perf_analyzer", "--input-data", "elsewhere/inputs/data.json"),)
    return record("add", 2, [], repeats=(repeat(100, 10, argv=line),), **changes)


def b64(array: np.ndarray[Any, Any]) -> dict[str, Any]:
    return {"content": {"b64": base64.b64encode(array.tobytes()).decode()}, "shape": list(array.shape)}


def test_aiperfs_requests_are_answered(measured_server: Deployment, tmp_path: Path) -> None:
    """The bodies that AIPerf replays are sent as they are to a real server; its answers hold what AIPerf looks for."""
    x = np.array([1, 2, 3, 4], dtype=np.float32)
    endpoint = Endpoint(measured_server.http)
    held = study(
        [sent(tmp_path, {"X": b64(x)}, batch_size=2)],
        deployments={"": {"configuration": {}, "models": {"add": endpoint.config("add")}}},
    )
    done = run(
        "convert",
        str(write(tmp_path / "s", held)),
        "--to",
        "aiperf",
        "-o",
        str(tmp_path / "a"),
        "--url",
        measured_server.http,
    )
    assert done.exit_code == 0, done.output
    (line,) = [
        shlex.split(text) for text in (tmp_path / "a" / "aiperf.sh").read_text().splitlines() if text[:6] == "aiperf"
    ]
    path = line[line.index("--custom-endpoint") + 1]
    bodies = json.loads((tmp_path / "a" / line[line.index("--input-file") + 1]).read_text())
    for session in bodies["data"]:
        (payload,) = session["payloads"]
        with urlopen(Request(f"http://{measured_server.http}{path}", json.dumps(payload).encode())) as answer:
            document = json.load(answer)
        assert document["outputs"][0]["data"] == [2, 3, 4, 5] * 2
        assert isinstance(document["model_name"], str)


def test_aiperfs_command_line() -> None:
    closed = argv(record("m", 8, [1.0]), "m.json", "http://server")
    assert closed[closed.index("--concurrency") + 1] == "8"
    rate = argv(record("m/n", 1, [1.0], load=Load("request_rate", 50.5, "poisson")), "m.json", "http://server")
    assert rate[rate.index("--request-rate") + 1] == "50.5"
    assert rate[rate.index("--arrival-pattern") + 1] == "poisson"
    assert "/v2/models/m%2Fn/infer" in rate


@pytest.mark.parametrize(
    ("kind", "entry", "said"),
    [("TYPE_FP16", b64(np.zeros(4, np.float16)), "FP16"),
     ("TYPE_STRING", b64(np.frombuffer(b"\x02\0\0\0\xff\xfe", np.uint8)), "no text")],
)  # fmt: skip
def test_what_json_cannot_say_is_refused(tmp_path: Path, kind: str, entry: dict[str, Any], said: str) -> None:
    models = {"add": {"max_batch_size": 0, "input": [{"name": "X", "data_type": kind}]}}
    held = study([sent(tmp_path, {"X": entry})], deployments={"": {"configuration": {}, "models": models}})
    done = run("convert", str(write(tmp_path / "s", held)), "--to", "aiperf", "-o", str(tmp_path / "a"))
    assert done.exit_code == BenchmarkFailed.exit_code
    assert said in done.output
    assert not (tmp_path / "a").exists()


def test_a_study_read_back_is_the_same(tmp_path: Path) -> None:
    assert load(write(tmp_path / "results", nasty())).records == nasty().records


def test_a_real_study_ends_with_its_report(measured_server: Deployment, tmp_path: Path) -> None:
    asked = ["--concurrency", "1,2", "--repeats", "3", "--warmup", "0", "--measurement-interval", "300"]
    asked += ["--stability-percentage", "1000", "--max-trials", "3", "--url", measured_server.http]
    done = run("bench", "add", *asked, "-o", str(tmp_path / "results"))
    assert done.exit_code == 0, done.output
    page = tmp_path / "results" / "report.html"
    assert f"report: {page}" in done.stdout
    held = load(tmp_path / "results")
    text = page.read_text()
    for each in held.records:
        assert f">{np.median([repeat.throughput for repeat in each.repeats]):.1f}</td>" in text
    found = json.loads(run("compare", *[str(tmp_path / "results")] * 2, "--json").stdout)
    assert found["surroundings"] == []
    assert [change["change"] for point in found["points"] for change in point["changes"]] == [0.0] * 6
    converted = run("convert", str(tmp_path / "results"), "--to", "model-analyzer")
    flags = yaml.safe_load(converted.stdout)["profile_models"]["add"]["perf_analyzer_flags"]
    assert Path(flags["input-data"]).is_file()
