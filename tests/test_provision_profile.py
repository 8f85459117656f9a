"""Profiles: which points are measured, that measuring goes on where it was, and the real servers and perf_analyzer."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from measured import repository
from profiled import TRUTHS, project, rows
from serving import ANY_PORTS, PROGRAM, tritonkit, wait_for

from tritonkit.bench.command import WINDOWS
from tritonkit.bench.preparation import Wish
from tritonkit.bench.records import Extent, Repeat, Usage
from tritonkit.bench.row import windows
from tritonkit.cli.profile import reasons
from tritonkit.cli.temporary import ON_CPU, serving
from tritonkit.cli.validation import print_comparison
from tritonkit.client.endpoint import Addresses
from tritonkit.errors import BenchmarkFailed, Fault, LaunchFailed, RequestFailed, SpecError, TritonkitError
from tritonkit.provision import campaign
from tritonkit.provision.campaign import batches, groups, pending, points, ring, run, servers_of
from tritonkit.provision.choices import Terms, Workload
from tritonkit.provision.measuring import Gpu, Meter, alone
from tritonkit.provision.measuring import beside as measured_beside
from tritonkit.provision.packing import pack
from tritonkit.provision.prediction import behaviours
from tritonkit.provision.profiles import Beside, Key, Row, add, read
from tritonkit.provision.validation import Comparison, compare, seconds_to_tell
from tritonkit.spec.servers import Server
from tritonkit.tools.perf_analyzer import PerfAnalyzer

QUICK = Wish({}, {}, interval_ms=300, stability_percentage=1000)


def test_sixteen_points_alone_and_a_ring_of_pairs() -> None:
    found = points({"a": 16, "b": 8, "c": 1})
    alone = [key for key in found if not key.beside]
    assert [(key.thread_percentage, key.batch_size) for key in alone if key.model == "a"] == [
        (at, batch) for at in (10, 20, 50, 100) for batch in (1, 2, 4, 16)
    ]
    assert len([key for key in alone if key.model == "c"]) == 4
    beside = [key for key in found if key.beside]
    for share in (20, 50):
        assert sorted((key.model, key.beside[0].model) for key in beside if key.thread_percentage == share) == [
            ("a", "b"), ("a", "c"), ("b", "a"), ("b", "c"), ("c", "a"), ("c", "b"),
        ]  # fmt: skip
    assert len(beside) == 12
    assert all(key.thread_percentage + key.beside[0].thread_percentage == 100 for key in beside)
    assert [key for key in points({"a": 16}) if key.beside] == []
    assert [key for key in points({"a": 16, "b": 8}, pairs=()) if key.beside] == []
    assert [key for key in points({"a": 16, "b": 8}, [100.0]) if key.beside] == []


def test_batches_and_rings() -> None:
    assert [batches(most) for most in (1, 2, 3, 8, 16, 100)] == [
        (1,), (1, 2), (1, 2, 3), (1, 2, 4, 8), (1, 2, 4, 16), (1, 2, 8, 32),
    ]  # fmt: skip
    assert ring(["a", "b"]) == [("a", "b")]
    assert len(ring(list("abc"))) == 3
    # Without the chord nothing would tell a from c: every pair would be of one of them and one of the others.
    assert ring(list("abcd")) == [("a", "b"), ("b", "c"), ("c", "d"), ("d", "a"), ("a", "c")]


def test_servers_start_once_for_all_their_points() -> None:
    wanted = points({"a": 16, "b": 8})
    needed = [servers for servers, _ in groups(wanted)]
    assert len(needed) == len(set(needed)) == 8 + 3
    assert [key for _, keys in groups(wanted) for key in keys if key not in wanted] == []
    assert servers_of(Key("b", 30, 4, (Beside("a", 70, 4),))) == (("a", 70), ("b", 30))


def test_an_interrupted_profile_goes_on_where_it_was(tmp_path: Path) -> None:
    known = {row.key: row for row in rows()}
    wanted = tuple(known)
    file = tmp_path / "profiles.csv"
    opened: list[Sequence[object]] = []
    measured: list[Key] = []

    @contextmanager
    def bring_up(servers: tuple[campaign.Server, ...]) -> Iterator[campaign.Measure]:
        opened.append(servers)

        def measure(key: Key) -> Row:
            assert servers_of(key) == servers
            if len(measured) == 10:
                raise KeyboardInterrupt
            measured.append(key)
            return known[key]

        yield measure

    with pytest.raises(KeyboardInterrupt):
        run(wanted, file, bring_up, lambda _key, _found: None)
    assert [row.key for row in read(file)] == measured
    before = len(measured)
    measured.insert(0, Key("interrupted once", 1, 1))
    told: list[Key] = []
    everything, failed = run(wanted, file, bring_up, lambda key, _: told.append(key))
    assert ({row.key for row in everything}, failed) == (set(wanted), {})
    assert len(told) == len(wanted) - before
    assert pending(wanted, read(file)) == ()
    count = len(opened)
    run(wanted, file, bring_up, lambda key, _: told.append(key))
    assert len(opened) == count


def test_a_point_that_fails_costs_what_is_harder_on_its_servers_and_no_more(tmp_path: Path) -> None:
    known = {row.key: row for row in rows()}
    wanted = tuple(known)
    file = tmp_path / "profiles.csv"
    broken = Key("bert", 10, 4)

    @contextmanager
    def bring_up(servers: tuple[campaign.Server, ...]) -> Iterator[campaign.Measure]:
        if servers == (("mobilenet", 100),):
            raise LaunchFailed("it did not come up")

        def measure(key: Key) -> Row:
            if key == broken:
                raise RequestFailed("an illegal instruction was encountered")
            return known[key]

        yield measure

    told: list[Key] = []
    found, failed = run(wanted, file, bring_up, lambda key, _: told.append(key))
    lost = {broken, Key("bert", 10, 16), *(Key("mobilenet", 100, batch) for batch in (1, 4, 16))}
    assert set(failed) == lost
    assert str(failed[broken]) == "an illegal instruction was encountered"
    assert {row.key for row in found} == {row.key for row in read(file)} == set(wanted) - lost
    assert sorted(map(str, told)) == sorted(map(str, wanted))
    # No plan goes where nothing as hard was measured.
    curve = behaviours(found)["bert"].curve
    assert curve.active_ms(1, 15) < float("inf")
    assert curve.active_ms(2, 15) == curve.active_ms(16, 29) == float("inf")
    assert curve.active_ms(16, 30) < float("inf")


def test_a_model_that_cannot_be_asked_costs_no_other_one(tmp_path: Path) -> None:
    known = {row.key: row for row in rows()}

    @contextmanager
    def bring_up(servers: tuple[campaign.Server, ...]) -> Iterator[campaign.Measure]:
        def measure(key: Key) -> Row:
            if key.model == "captioner":
                raise SpecError([Fault("", 0, "", "its input has dims that nobody gave")])
            return known[key]

        yield measure

    found, failed = run(tuple(known), tmp_path / "profiles.csv", bring_up, lambda _key, _found: None)
    assert {key.model for key in failed} == {"captioner"}
    assert {row.key for row in found} == {key for key in known if key.model != "captioner"}


def test_two_profiles_at_once_lose_nothing_and_measure_nothing_twice(tmp_path: Path) -> None:
    file = tmp_path / "profiles.csv"
    everything = rows()
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda row: add(file, row), everything))
    assert {row.key for row in read(file)} == {row.key for row in everything}

    file.unlink()
    known = {row.key: row for row in everything}
    # The other one measures all of bert's points, while this one measures its first.
    theirs = [replace(row, latency_ms=9.0, transfer_ms=None) for row in everything if row.key.model == "bert"]
    measured: list[Key] = []
    told: list[Key] = []

    @contextmanager
    def bring_up(_servers: tuple[campaign.Server, ...]) -> Iterator[campaign.Measure]:
        def measure(key: Key) -> Row:
            if not measured:
                for row in theirs:
                    add(file, row)
            measured.append(key)
            return known[key]

        yield measure

    found, failed = run(tuple(known), file, bring_up, lambda key, _: told.append(key))
    assert {row.key for row in found} == {row.key for row in read(file)} == set(known)
    assert not failed
    assert sorted(map(str, told)) == sorted(map(str, known))
    # The servers of the first group ran already; no other ones were started for what the other one had measured.
    assert {key.thread_percentage for key in measured if key.model == "bert"} == {10}
    assert all(row.latency_ms == 9.0 for row in read(file) if row.key.model == "bert")


def test_columns_of_others_are_kept(tmp_path: Path) -> None:
    file = tmp_path / "profiles.csv"
    file.write_text("who,model,thread_percentage,batch_size,latency_ms,when\nann,a,10,1,6.2,\n,a,10,2,7,monday\n")
    add(file, Row(Key("a", 10, 4), 9.0))
    text = file.read_text().splitlines()
    assert text[0].endswith(",gpu,fingerprint,who,when")
    assert [line.split(",")[-2:] for line in text[1:]] == [["ann", ""], ["", "monday"], ["", ""]]
    assert [row.others for row in read(file)][:2] == [
        (("who", "ann"), ("when", "")), (("who", ""), ("when", "monday")),
    ]  # fmt: skip


def test_points_are_added_only_to_a_profile_of_the_same_device(tmp_path: Path) -> None:
    file = tmp_path / "profiles.csv"
    assert campaign.known(file, "NVIDIA H200", {}) == ()
    add(file, Row(Key("a", 10, 1), 6.2))
    add(file, Row(Key("a", 100, 1), 2.1, gpu="NVIDIA H200"))
    # Another GPU of the same product will do, and so will rows that do not say where they are from.
    assert len(campaign.known(file, "NVIDIA H200", {})) == 2
    for other in ("CPU", "NVIDIA A100"):
        with pytest.raises(SpecError, match=f"was measured on NVIDIA H200, and this is {other}"):
            campaign.known(file, other, {})


def test_batches_that_a_model_does_not_take_are_not_its_points() -> None:
    found = points({"a": 8, "b": 1}, [30.0], chosen=[2, 8, 64])
    assert [(key.model, key.batch_size) for key in found] == [("a", 2), ("a", 8)]


def test_a_point_says_what_the_server_took_and_never_hides_failures() -> None:
    gpu = Gpu("GPU-1", "NVIDIA H200", 143_771.0, used_mib=600.0)
    latency = Repeat(
        throughput=100, latency_avg=5_000, latency_p50=1, latency_p90=1, latency_p95=1, latency_p99=1,
        parts={"compute_infer": 3_000.0},
    )  # fmt: skip
    full = replace(latency, throughput=400, usage=Usage(gpu_memory_mib=Extent(1_500.0, 1_600.0)))
    found = alone(Key("a", 30, 4), latency, full, gpu, 7)
    assert (found.latency_ms, found.transfer_ms, found.throughput) == (5.0, 2.0, 400)
    # What was taken of the GPU before the server started is none of its own.
    assert (found.memory_mib, found.gpu_memory_mib, found.clients, found.gpu) == (1_000, 143_771, 7, "NVIDIA H200")
    for broken in ((replace(latency, failures=1), full), (latency, replace(full, failures=1))):
        with pytest.raises(BenchmarkFailed, match="1 requests failed"):
            alone(Key("a", 30, 4), *broken, gpu, 7)
    with pytest.raises(BenchmarkFailed, match="1 requests failed"):
        measured_beside(Key("a", 30, 4, (Beside("b", 70, 4),)), replace(latency, failures=1), gpu)


def test_the_clients_of_a_profile_are_those_of_a_plan() -> None:
    known = behaviours([replace(row, clients=7) for row in rows()])
    assert {behaviour.clients for behaviour in known.values()} == {7}
    # Six such servers are what one MPS daemon takes.
    wanted = [Workload(name, 400, 1) for name in known]
    assert len(pack(wanted, known, Terms()).gpus) == 1
    crowded = behaviours([replace(row, clients=25) for row in rows()])
    assert len(pack(wanted, crowded, Terms()).gpus) == 4


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return repository(tmp_path_factory.mktemp("profiled") / "models")


def test_points_alone_and_beside_one_another_through_real_servers(
    models: Path, perf_analyzer: PerfAnalyzer, tmp_path: Path
) -> None:
    servers = (Server("one", 0, ("add",)), Server("two", 1, ("open",)))
    with serving(models, ["add", "open"], servers, ON_CPU, tmp_path / "kept") as deployment:
        meter = Meter(
            Addresses(deployment.http, deployment.grpc), perf_analyzer, replace(QUICK, shapes={"X": (4,)}), tmp_path,
            warm_up=0.2,
        )  # fmt: skip
        alone = meter.row(Key("add", 100, 4))
        # Two levels at once are taken as they come, also a window that a stall of the machine leaves empty.
        longer = replace(meter, wish=replace(meter.wish, interval_ms=1500))
        beside = longer.row(Key("add", 100, 4, (Beside("open", 100, 2),)))
        with pytest.raises(SpecError, match="it takes at most 8"):
            meter.row(Key("add", 100, 9))
    # The dynamic batcher of the model waits 2 ms, which is no computing.
    assert 2.0 < alone.latency_ms < 200
    assert alone.transfer_ms is not None
    assert 2.0 < alone.transfer_ms < alone.latency_ms
    assert alone.throughput is not None
    assert alone.throughput > 4 / alone.latency_ms * 1000 * 0.5
    assert (alone.memory_mib, alone.clients) == (None, None)
    assert beside.latency_ms > 2.0
    raw = sorted(path.parent.name for path in tmp_path.rglob("report-1.csv"))
    assert raw == ["latency-add", "latency-add", "latency-open", "throughput-add"]


def validated(folder: Path, *options: str, codes: Collection[int] = (0,)) -> subprocess.CompletedProcess[str]:
    """``tritonkit provision --validate``; up to twice more, as a plan need not hold while other tests run."""
    for _ in range(3):
        done = tritonkit(folder, "provision", "--validate", *options)
        if done.returncode in codes:
            break
    assert done.returncode in codes, done.stderr + done.stdout
    return done


@pytest.mark.timeout(600)
def test_a_profile_from_the_command_line_is_planned_from_and_validated(
    models: Path, perf_analyzer: PerfAnalyzer, tmp_path: Path
) -> None:
    (tmp_path / "src").mkdir()
    (tmp_path / "src/model.py").write_text((models / "add/1/model.py").read_text())
    body = {
        "backend": "python", "source": "src/", "max_batch_size": 4, "input": {"X": "FP32[4]"},
        "output": {"Y": "FP32[4]"}, "instance_group": [{"count": 1, "kind": "KIND_CPU"}],
        "slo": {"latency_p99": "20s", "rate": "150/s"},
        # A plan has no such delay, so what a model computes is measured without.
        "dynamic_batching": {"max_queue_delay_microseconds": 400_000},
    }  # fmt: skip
    spec = {"version": 1, "models": {"add": body, "sum": {**body, "slo": {"latency_p99": "15s", "rate": "180/s"}}}}
    (tmp_path / "spec.yaml").write_text(yaml.safe_dump(spec))
    quick = ("--gpu", "none", "--measurement-interval", "300", "--stability-percentage", "1000")
    planned = tritonkit(tmp_path, "profile", *quick, "--dry-run", "--json")
    assert [(row["model"], row["batch_size"]) for row in json.loads(planned.stdout)] == [
        (model, batch) for model in ("add", "sum") for batch in (1, 2, 4)
    ]
    done = tritonkit(tmp_path, "profile", *quick, "--model", "add", "--batch-size", "1,4")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "profiles.csv: 2 points measured, 0 were there already"
    before = read(tmp_path / "profiles.csv")
    assert all(row.latency_ms < 200 for row in before)
    assert {row.gpu for row in before} == {"CPU"}
    assert not (tmp_path / "model_repository").exists()
    done = tritonkit(tmp_path, "profile", *quick, "--batch-size", "1,4")
    assert done.stdout.splitlines()[-1] == "profiles.csv: 2 points measured, 2 were there already"
    # Who sees no bar sees a line a point.
    assert done.stderr.splitlines() == [
        "measured sum at 100 %, batch 1 (1 of 2)", "measured sum at 100 %, batch 4 (2 of 2)",
    ]  # fmt: skip
    assert read(tmp_path / "profiles.csv")[:2] == before
    # Another version of a model is another one: its points are measured anew, or not at all.
    other = (*quick, "--model", "sum", "--batch-size", "1", "--set", "models.sum.instance_group[0].count=2")
    (tmp_path / "other.csv").write_text((tmp_path / "profiles.csv").read_text())
    done = tritonkit(tmp_path, "profile", *other, "--profile", "other.csv")
    assert (done.returncode, "sum: its points are of another version" in done.stderr) == (2, True), done.stderr
    done = tritonkit(tmp_path, "profile", *other, "--profile", "other.csv", "--fresh")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "other.csv: 1 point measured, 0 were there already"
    assert "note: other.csv as it was is kept in other.csv.1" in done.stderr
    assert read(tmp_path / "other.csv.1") == read(tmp_path / "profiles.csv")
    *first, anew = read(tmp_path / "other.csv")
    assert (tuple(first), anew.key) == (before, Key("sum", 100, 1))
    assert anew.fingerprint not in {row.fingerprint for row in read(tmp_path / "profiles.csv")}
    done = validated(tmp_path, "--seconds", "6", "--json")
    assert "note: no GPU is here" in done.stderr
    found = {row["model"]: row for row in json.loads(done.stdout)["validation"]}
    assert set(found) == {"add", "sum"}
    for name, rate in (("add", 150), ("sum", 180)):
        assert found[name]["held"], found
        assert found[name]["throughput"] == pytest.approx(rate, rel=0.3)
        assert 0 < found[name]["latency_p99_ms"] < found[name]["slo_ms"]
        assert found[name]["compute_ms"] > 0
    # For people: the plan, what to know of it, and the comparison below; too few requests are no proof.
    done = validated(tmp_path, "--seconds", "5", codes=(0, 7))
    plan, notes, compared = (
        done.stdout.index(words)
        for words in ("why not less:", "! add: its influence", "every model under its load at once")
    )
    assert plan < notes < compared
    assert "note: 5 s may be too short to tell whether add is served 150/s; --seconds 6 is enough" in done.stderr
    # One model alone is not measured for longer than asked until it is steady: so few requests never are.
    few = ("--set", "~models.sum", "--set", "models.add.slo.rate=10/s")
    done = validated(tmp_path, *few, "--seconds", "5", codes=(0, 7))
    assert "note: 5 s may be too short" in done.stderr
    (log,) = (tmp_path / "profiles-validation").rglob("perf_analyzer-1.log")
    assert len(windows(log.read_text())) == WINDOWS
    done = tritonkit(tmp_path, "profile", "--model", "ad")
    assert (done.returncode, "no such model; did you mean 'add'?" in done.stderr) == (2, True)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--percentages", "10"), "--percentages: --gpu none measures on the CPU, where there are none"),
        (("--percentages", "10,100"), "--percentages: --gpu none measures on the CPU, where there are none"),
        (("--pair", "bert,resnet50"), "--pair: --gpu none measures on the CPU"),
        (("--pair", "nonsense"), "--pair: --gpu none measures on the CPU"),
        (("--percentages", "100"), ""),
        (("--no-pairs",), ""),
    ],
)
def test_options_that_mean_nothing_on_the_cpu_are_refused(tmp_path: Path, options: Sequence[str], words: str) -> None:
    done = tritonkit(project(tmp_path / "mix"), "profile", "--gpu", "none", "--dry-run", *options, "--profile", "new")
    assert (done.returncode, words in " ".join(done.stderr.split())) == (2 if words else 0, True), done.stderr


def test_what_was_measured_before_an_interruption_is_kept_and_said(tmp_path: Path, models: Path) -> None:
    folder = project(tmp_path / "mix")
    (folder / "src/model.py").write_text((models / "add/1/model.py").read_text())
    (folder / "spec.yaml").write_text((folder / "spec.yaml").read_text().replace("KIND_GPU", "KIND_CPU"))
    file = folder / "new.csv"
    line = [str(PROGRAM), "profile", "--gpu", "none", "--profile", file.name, "--measurement-interval", "1500"]

    def interrupted(there: Path) -> str:
        """What is said where a profile is interrupted as soon as a file is there."""
        with subprocess.Popen(line, cwd=folder, stderr=subprocess.PIPE, text=True) as running:
            wait_for(there.exists, seconds=60)
            running.send_signal(signal.SIGINT)
            _, words = running.communicate(timeout=60)
        assert running.returncode == 130, words
        return words

    words = interrupted(folder / "new-raw/bert-100-b1/latency-bert/input.json")
    assert "interrupted: no point was measured yet; run the same command to go on" in words
    assert not file.exists()
    words = interrupted(file)
    count = len(read(file))
    points = "1 point that was" if count == 1 else f"{count} points that were"
    assert f"interrupted: new.csv keeps the {points} measured; run the same command to go on" in words


def test_what_fails_says_why_once_and_keeps_the_log(tmp_path: Path) -> None:
    folder = project(tmp_path / "mix")
    (folder / "src/model.py").write_text("import nowhere_to_be_found\n")
    (folder / "spec.yaml").write_text((folder / "spec.yaml").read_text().replace("KIND_GPU", "KIND_CPU"))
    quick = ("--gpu", "none", "--profile", "new.csv", "--batch-size", "1,2")
    done = tritonkit(folder, "profile", *quick, "--model", "bert")
    assert done.returncode == 6, done.stderr
    said = [line.strip() for line in done.stderr.splitlines()]
    assert said[:2] == ["failed bert at 100 %, batch 1 (1 of 2)", "failed bert at 100 %, batch 2 (2 of 2)"]
    assert said[2:6] == [
        "error: 2 of 2 points could not be measured:", "bert at 100 %, batch 1", "bert at 100 %, batch 2",
        "profiled-0 cannot serve every model:",
    ]  # fmt: skip
    assert done.stderr.count("No module named 'nowhere_to_be_found'") == 1
    # The folder of the servers is gone, and their log is not; what is known to help is said, too.
    (log,) = (line.removeprefix("Its log: ") for line in said if line.startswith("Its log: "))
    assert Path(log) == folder / "new-raw/bert-100/profiled-0.log"
    assert "nowhere_to_be_found" in Path(log).read_text()
    assert "/tritonkit-" not in done.stderr.replace(str(folder), "")
    assert any(line.startswith("Install what provides the module nowhere_to_be_found") for line in said)
    assert said[-1] == "hint: Nothing was measured; run the same command to try the rest again."
    assert done.stdout.splitlines()[-1] == "new.csv: 0 points measured, 0 were there already"


def test_a_reason_is_given_once_with_all_its_points_and_logs() -> None:
    one, two, three = (Key("bert", percentage, 1) for percentage in (10, 20, 50))
    logs = [Path(f"raw/bert-{percentage}/profiled-0.log") for percentage in (10, 20)]
    failed: dict[Key, TritonkitError] = {
        key: LaunchFailed(f"it did not come up\nIts log: {log}", log=log, hint="Install it.")
        for key, log in zip((one, two), logs, strict=True)
    }
    failed[three] = BenchmarkFailed(f"{three}: 1 requests failed", hint="The logs are in raw")
    assert list(reasons(failed)) == [
        f"  {one}", f"  {two}", "    it did not come up", f"    Its log: {logs[0]}",
        f"    Its log: {logs[1]}", "    Install it.", f"  {three}", "    1 requests failed", "    The logs are in raw",
    ]  # fmt: skip


def test_a_plan_that_does_not_hold_is_found_out() -> None:
    plan = pack([Workload("bert", 60, 150), Workload("mobilenet", 12, 400)], behaviours(rows()), Terms())
    good = Repeat(
        throughput=148, latency_avg=20_000, latency_p50=1, latency_p90=1, latency_p95=1, latency_p99=50_000,
        batches={2: 50, 3: 50}, requests=60 * 148, seconds=80, parts={"compute_infer": 8000.0, "compute_input": 100.0},
    )  # fmt: skip
    (found,) = compare(plan, {"bert": good}, {})
    assert (found.model, found.held, found.batch_size, found.compute_ms) == ("bert", True, 2.5, 8.1)
    assert found.error == pytest.approx(found.predicted_compute_ms / 8.1 - 1)  # type: ignore[operator]
    truth = TRUTHS["bert"].active_ms(2, plan.gpus[0][0].choice.thread_percentage)
    assert truth < (found.predicted_compute_ms or 0) < 1.5 * truth
    # Batches of three that are padded to four take as long as those.
    (padded,) = compare(plan, {"bert": good}, {"bert": (1, 2, 4)})
    (four,) = compare(plan, {"bert": replace(good, batches={2: 50, 4: 50})}, {})
    assert padded.predicted_compute_ms == four.predicted_compute_ms
    assert (padded.predicted_compute_ms or 0) > (found.predicted_compute_ms or 0)
    for broken in (replace(good, latency_p99=61_000), replace(good, throughput=130), replace(good, failures=1)):
        assert not compare(plan, {"bert": broken}, {})[0].held
    # A minute of random arrivals may be a few percent off.
    assert compare(plan, {"bert": replace(good, throughput=142, requests=60 * 142)}, {})[0].held

    def over(seconds: float, throughput: float) -> tuple[bool, bool]:
        """What is said of so many seconds; perf_analyzer ran for longer, and its figures do not rest on that."""
        repeat = replace(good, throughput=throughput, requests=round(seconds * throughput), seconds=seconds + 10)
        (found,) = compare(plan, {"bert": repeat}, {})
        return found.told, found.held

    # In two seconds anything may be, which is no proof; in the time that is told to be enough it is one.
    assert [over(2, throughput) for throughput in (148, 131, 100)] == [(True, True), (False, False), (True, False)]
    enough = seconds_to_tell(150)
    assert enough == pytest.approx(6)
    assert [over(enough, throughput) for throughput in (132, 129)] == [(True, True), (True, False)]
    # Nor is it one where the log does not say how many requests there were.
    (silent,) = compare(plan, {"bert": replace(good, throughput=131, requests=None)}, {})
    assert (silent.told, silent.held) == (False, False)


def test_a_comparison_fits_a_terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    short = Comparison(
        model="resnet50-large-v2", slo_ms=30, latency_p99_ms=27.31, predicted_p99_ms=28.11, latency_ms=12.5,
        batch_size=3.1, compute_ms=8.11, predicted_compute_ms=8.5, rate=1200, throughput=1190.4, told=False, held=False,
    )  # fmt: skip
    print_comparison([short, replace(short, told=True), replace(short, told=True, held=True, compute_ms=None)])
    shown = capsys.readouterr().out.splitlines()
    assert max(len(line) for line in shown) <= 80
    words = [line.split() for line in shown if line.strip().startswith("resnet50-large-v2")]
    assert [line[1:] for line in words] == [
        ["30", "27.31", "28.11", "12.50", "1200", "1190", "too", "short"],
        ["30", "27.31", "28.11", "12.50", "1200", "1190", "NO"],
        ["30", "27.31", "28.11", "12.50", "1200", "1190", "yes"],
        ["3.1", "8.11", "8.50", "+4.8%"],
        ["3.1", "8.11", "8.50", "+4.8%"],
        ["3.1", "-", "8.50", "-"],
    ]


def test_the_running_plan_is_watched_and_what_would_change_is_said(tmp_path: Path, models: Path) -> None:
    folder = project(tmp_path / "mix")
    (folder / "src/model.py").write_text((models / "add/1/model.py").read_text())
    text = (folder / "spec.yaml").read_text().replace("KIND_GPU", "KIND_CPU")
    (folder / "spec.yaml").write_text(text)
    assert tritonkit(folder, "provision", "-o", "plan.yaml").returncode == 0
    summaries = "--server-arg=--metrics-config=summary_latencies=true"
    up = tritonkit(folder, "up", "spec.yaml", "plan.yaml", "--gpus", "none", summaries, "--detach", *ANY_PORTS)
    try:
        assert up.returncode == 0, up.stderr
        done = tritonkit(
            folder, "autoscale", "spec.yaml", "plan.yaml", "--dry-run", "--looks", "2", "--interval", "0.5",
            "--patience", "0.4", "--json",
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        looks = [json.loads(line) for line in done.stdout.splitlines()]
        assert len(looks) == 2
        # Nobody asks: everything has too much, as soon as patience is at its end.
        assert looks[0]["changes"] == []
        assert any(reason.startswith("resnet50: 0/s for ") for reason in looks[1]["reasons"])
        assert any(change.startswith("resnet50 on GPU 0: ") for change in looks[1]["changes"])
        assert not looks[1]["applied"]
        wet = tritonkit(folder, "autoscale", "spec.yaml", "plan.yaml", "--looks", "1", "--interval", "0.1")
        assert (wet.returncode, "there are no percentages to change" in wet.stderr) == (2, True)
        other = ("--set", "models.bert.max_batch_size=3", "--dry-run", "--looks", "1", "--interval", "0.1")
        refused = tritonkit(folder, "autoscale", "spec.yaml", "plan.yaml", *other)
        assert refused.returncode == 2, refused.stderr
        batch = yaml.safe_load((folder / "plan.yaml").read_text())["models"]["bert"]["max_batch_size"]
        words = f"bert is served with batches of at most {batch}, and of 3 in the plan"
        assert words in " ".join(refused.stderr.split())
        refused = tritonkit(folder, "autoscale", "spec.yaml", "--looks", "1", "--interval", "0.1")
        assert (refused.returncode, "the spec has no server with a GPU for bert" in refused.stderr) == (2, True)
    finally:
        tritonkit(folder, "down")
