"""tritonkit's own clients before a gateway that asks for tokens and speaks TLS, with two servers behind it."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pytest
from gateways import certificate, gateway
from measured import repository
from serving import deployment_of, tritonkit, up, wait_for
from system_packages import program

from tritonkit.bench.command import Measurement, argv, bearing, certified, shell_line
from tritonkit.bench.data import document
from tritonkit.bench.levels import Concurrency, Level
from tritonkit.bench.point import Bench, measure
from tritonkit.bench.preparation import Wish, prepare
from tritonkit.bench.row import Row, summed
from tritonkit.client import activity
from tritonkit.client.access import Access, Tls, Token, read_token
from tritonkit.client.endpoint import Addresses, Endpoint, Protocol
from tritonkit.client.inference import infer
from tritonkit.client.signature import signature
from tritonkit.client.tensors import collect
from tritonkit.errors import RequestFailed, UsageError
from tritonkit.serve import Deployment
from tritonkit.serve.gateway import Backend
from tritonkit.spec.servers import Server
from tritonkit.tools.perf_analyzer import PerfAnalyzer

TOKEN = "first-token-of-ours"  # noqa: S105 - of these tests alone
SHORT = ("--warmup", "0", "--measurement-interval", "300", "--stability-percentage", "1000", "--concurrency", "3")
PROTOCOLS: tuple[Protocol, ...] = ("http", "grpc")
WITHOUT = {"TRITONKIT_TOKEN": ""}


@dataclass(frozen=True)
class Guarded:
    """A deployment that asks for tokens over TLS."""

    deployment: Deployment
    certificate: Path
    tokens: Path

    @property
    def project(self) -> Path:
        return self.deployment.project

    @property
    def url(self) -> tuple[str, ...]:
        """Options that name it to a client somewhere else, without a token."""
        address = (f"--url=https://{self.deployment.http}", f"--grpc-url={self.deployment.grpc}")
        return (*address, f"--ca-certificate={self.certificate}")

    @property
    def addresses(self) -> Addresses:
        """As the deployment of a project is found."""
        servers = tuple(server.http for server in self.deployment.servers if server.kind == "server")
        tls = Tls(self.deployment.tls_certificate, own=True)
        return Addresses(self.deployment.http, self.deployment.grpc, Access(read_token(self.tokens), tls), servers)


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    program("haproxy")
    project = tmp_path_factory.mktemp("guarded")
    alone, both = certificate(tmp_path_factory.mktemp("certificate"))
    tokens = project / "tokens"
    tokens.touch(mode=0o600)
    tokens.write_text(f"# of the team\n{TOKEN}\nsecond-token-of-ours\n")
    with up(
        project,
        repository(project / "models"),
        servers=(Server("numbers", replicas=2),),
        gpus=("none",),
        tokens_file=tokens,
        tls_certificate=both,
    ) as deployment:
        yield Guarded(deployment, alone, tokens)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_the_projects_own_deployment_needs_no_word(guarded: Guarded, protocol: str) -> None:
    done = tritonkit(guarded.project, "infer", "add", "-i", "X=[1, 2, 3, 4]", "--protocol", protocol, env=WITHOUT)
    assert (done.returncode, done.stderr) == (0, "")
    assert "2, 3, 4, 5" in done.stdout


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_one_named_by_url(guarded: Guarded, tmp_path: Path, protocol: str) -> None:
    asked = ("infer", "add", "-i", "X=[1, 2, 3, 4]", "--protocol", protocol)
    by_file = tritonkit(tmp_path, *asked, *guarded.url, "--token-file", str(guarded.tokens), env=WITHOUT)
    assert (by_file.returncode, by_file.stderr) == (0, "")
    by_variable = tritonkit(tmp_path, *asked, *guarded.url, env={"TRITONKIT_TOKEN": "second-token-of-ours"})
    assert (by_variable.returncode, by_variable.stderr) == (0, "")


def test_what_is_missing_is_said(guarded: Guarded, tmp_path: Path) -> None:
    asked, http = ("infer", "add", "-i", "X=[1, 2, 3, 4]"), guarded.deployment.http
    untold = tritonkit(tmp_path, *asked, *guarded.url, env=WITHOUT)
    assert untold.returncode == 1
    assert "a known token is needed" in untold.stderr
    assert "--token-file" in untold.stderr
    bearing_it = {"TRITONKIT_TOKEN": TOKEN}
    untrusted = tritonkit(tmp_path, *asked, "--url", f"https://{http}", env=bearing_it)
    assert (untrusted.returncode, "--ca-certificate" in untrusted.stderr) == (1, True)
    plain = tritonkit(tmp_path, *asked, "--url", http, env=bearing_it)
    assert plain.returncode == 1
    assert f"at {http}" in plain.stderr
    assert "--url https://" in plain.stderr
    short = tritonkit(tmp_path, *asked, *guarded.url, env={"TRITONKIT_TOKEN": "tiny"})
    assert (short.returncode, "$TRITONKIT_TOKEN: holds no token" in short.stderr) == (2, True)
    assert "tiny" not in short.stderr
    idle = tritonkit(tmp_path, *asked, "--url", http, f"--ca-certificate={guarded.certificate}", env=WITHOUT)
    assert (idle.returncode, "no TLS without https://" in idle.stderr) == (2, True)
    nobody = tritonkit(tmp_path, "bench", "--token-file", str(guarded.tokens), env=WITHOUT)
    assert (nobody.returncode, "--token-file" in nobody.stderr) == (2, True)


def test_a_server_that_speaks_no_tls(measured_server: Deployment) -> None:
    with pytest.raises(RequestFailed, match="no TLS is spoken at") as error:
        Endpoint(f"https://{measured_server.http}").index()
    assert error.value.hint == "Without TLS: --url http://host:port"


def test_status_and_top(guarded: Guarded, tmp_path: Path) -> None:
    status = tritonkit(guarded.project, "status", env=WITHOUT)
    assert status.returncode == 0, status.stdout
    assert f"https://{guarded.deployment.http}" in status.stdout
    assert f"https://{guarded.deployment.metrics}/metrics" in status.stdout
    named = (*guarded.url[::2], "--token-file", str(guarded.tokens))

    def faults(folder: Path, *arguments: str) -> list[str]:
        done = tritonkit(folder, "top", "--json", "--interval", "0.1", *arguments, env=WITHOUT)
        assert done.returncode == 0, done.stderr
        return [server["fault"] for server in json.loads(done.stdout)["servers"]]

    # A server that is slow to answer once has a fault, too.
    wait_for(lambda: faults(guarded.project) == ["", "", ""])
    wait_for(lambda: faults(tmp_path, *named) == [""])
    idle = tritonkit(guarded.project, "top", "--json", "--token-file", str(guarded.tokens))
    assert idle.returncode == 2


def test_the_state_names_files_and_no_token(guarded: Guarded) -> None:
    written = (guarded.project / ".tritonkit" / "state.json").read_text()
    assert TOKEN not in written
    found = deployment_of(guarded.project)
    assert found.tokens_file == guarded.tokens
    assert found.tls_certificate == guarded.deployment.tls_certificate


def test_bench_measures_every_server_and_writes_no_token(guarded: Guarded, perf_analyzer: PerfAnalyzer) -> None:
    before = activity.snapshots(guarded.addresses)
    arguments = ("bench", "twice", "add", "--protocol", "http,grpc", *SHORT, "-o", "results", "--json")
    done = tritonkit(guarded.project, *arguments, env=WITHOUT)
    assert done.returncode == 0, done.stderr + done.stdout
    after = activity.snapshots(guarded.addresses)
    points = json.loads(done.stdout)["points"]
    assert {(point["model"], point["protocol"]) for point in points} == {
        ("twice", "http"), ("twice", "grpc"), ("add", "http"), ("add", "grpc"),
    }  # fmt: skip
    counted = 0
    for point in points:
        (repeat,) = point["repeats"]
        parts, each = repeat["parts"], 2 if point["model"] == "twice" else 1
        assert (repeat["failures"], list(repeat["members"])) == (0, ["add"] if each == 2 else [])
        requests = sum(int(size) * count for size, count in repeat["batches"].items())
        assert (requests == 0) if each == 2 else (requests >= repeat["requests"] > 0)
        counted += requests
        # Those of the server are of the whole run, the latencies of the windows.
        assert each * 1000 < parts["queue"] < 3 * repeat["latency_p99"]
        assert 0 < sum(parts[part] for part in ("network", "queue", "compute_infer")) < 3 * repeat["latency_p99"]
    # The trial requests are the only others that anybody sent meanwhile.
    (twice, add) = activity.between(before, after, ["twice", "add"])
    assert 0 < add.requests - 2 * twice.requests - counted <= 8
    for server in guarded.addresses.servers:
        (own,) = activity.between({server: before[server]}, {server: after[server]}, ["add"])
        assert 0 < own.requests < add.requests
    kept = [file for file in (guarded.project / "results").rglob("*") if file.is_file()]
    assert len(kept) > 10
    for file in kept:
        assert TOKEN.encode() not in file.read_bytes(), file
    assert TOKEN not in done.stdout + done.stderr
    assert "authorization:Bearer ***" in (guarded.project / "results/points/add-http-b1-c3/command.txt").read_text()


def test_bench_by_url_sums_over_servers_as_well(guarded: Guarded, perf_analyzer: PerfAnalyzer, tmp_path: Path) -> None:
    before = activity.snapshots(guarded.addresses)
    # Long enough for the slow first requests, those of the trial, to weigh little.
    asked = ("bench", "twice", *SHORT, "--measurement-interval", "1000", *guarded.url)
    done = tritonkit(tmp_path, *asked, "--token-file", str(guarded.tokens), "-o", "results", "--json", env=WITHOUT)
    assert done.returncode == 0, done.stderr + done.stdout
    after = activity.snapshots(guarded.addresses)
    (point,) = json.loads(done.stdout)["points"]
    (repeat,) = point["repeats"]
    twice, add = activity.between(before, after, ["twice", "add"])
    # But for the trial requests all that happened is the point.
    assert 0 < repeat["requests"] <= twice.requests
    assert add.requests == 2 * twice.requests
    assert repeat["parts"]["compute_infer"] == pytest.approx(2 * add.compute_infer, rel=0.3)
    assert repeat["parts"]["queue"] == pytest.approx(2 * add.queue, rel=0.3)


def test_instances_are_those_of_every_server(guarded: Guarded, perf_analyzer: PerfAnalyzer) -> None:
    # A request takes 20 ms, and one instance on each of two servers is kept busy: how many requests those are is the
    # machine's affair.
    asked = ("bench", "moody", "-i", "X=[-4]", *SHORT, "--measurement-interval", "400", "-o", "busy", "--json")
    before = activity.snapshots(guarded.addresses)
    done = tritonkit(guarded.project, *asked, env=WITHOUT)
    assert done.returncode == 0, done.stderr + done.stdout
    after = activity.snapshots(guarded.addresses)
    (point,) = json.loads(done.stdout)["points"]
    (repeat,) = point["repeats"]
    (moody,) = activity.between(before, after, ["moody"])
    for server in guarded.addresses.servers:
        (own,) = activity.between({server: before[server]}, {server: after[server]}, ["moody"])
        assert 0 < own.requests < moody.requests
    assert repeat["busy"] == pytest.approx(repeat["throughput"] * moody.compute / 1e6 / 2, rel=0.2)


def test_a_study_names_the_token_and_the_certificate(
    guarded: Guarded, perf_analyzer: PerfAnalyzer, tmp_path: Path
) -> None:
    os.symlink(guarded.certificate, tmp_path / "server.pem")
    (tmp_path / "study.yaml").write_text(
        f"version: 1\nurl: https://{guarded.deployment.http}\ngrpc_url: {guarded.deployment.grpc}\n"
        f"token_file: {guarded.tokens}\nca_certificate: server.pem\nmodels: [add]\nrepeats: 1\nwarmup: 0\n"
        "load: {concurrency: 3, protocol: grpc}\nmeasurement: {interval_ms: 300, stability_percentage: 1000}\n"
    )
    done = tritonkit(tmp_path, "bench", "study.yaml", "-o", "out", "--json", env=WITHOUT)
    assert done.returncode == 0, done.stderr + done.stdout
    (point,) = json.loads(done.stdout)["points"]
    assert point["repeats"][0]["failures"] == 0
    kept = [file.read_bytes() for file in (tmp_path / "out").rglob("*") if file.is_file()]
    assert not any(TOKEN.encode() in content for content in kept)
    done = tritonkit(tmp_path, "bench", "study.yaml", "--token-file", str(guarded.tokens), env=WITHOUT)
    assert (done.returncode, "a study says this itself" in " ".join(done.stderr.split())) == (2, True)


def test_a_dry_run_shows_no_token(guarded: Guarded, perf_analyzer: PerfAnalyzer) -> None:
    done = tritonkit(guarded.project, "bench", "add", "--concurrency", "1", "--protocol", "http,grpc", "--dry-run")
    assert done.returncode == 0, done.stderr
    assert TOKEN not in done.stdout
    http, grpc = done.stdout.splitlines()
    assert f"https://{guarded.deployment.http}" in http
    assert "--ssl-grpc-use-ssl" in grpc


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_shared_memory_is_refused_before_anything(guarded: Guarded, protocol: str) -> None:
    arguments = ("bench", "add", "--shared-memory", "none,system", "--protocol", protocol, "-o", f"shared-{protocol}")
    done = tritonkit(guarded.project, *arguments, env=WITHOUT)
    assert done.returncode == 1
    assert "shared memory is registered with one server" in done.stderr
    assert f"--url {guarded.addresses.servers[0]}" in done.stderr
    assert not list((guarded.project / f"shared-{protocol}").rglob("*.log"))


def foreign(folder: Path) -> Path:
    """A certificate with its key, issued by an authority that is not in the file, for a name that leads nowhere."""
    steps = (
        f"openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj /CN=authority "
        f"-keyout {folder}/ca.key -out {folder}/ca.pem",
        f"openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj /CN=triton.invalid "
        f"-keyout {folder}/own.key -out {folder}/own.csr",
        f"openssl x509 -req -in {folder}/own.csr -CA {folder}/ca.pem -CAkey {folder}/ca.key -CAcreateserial "
        f"-extfile {folder}/names -out {folder}/own.pem",
    )
    (folder / "names").write_text("subjectAltName=DNS:triton.invalid\nbasicConstraints=CA:FALSE\n")
    for step in steps:
        subprocess.run(step.split(), check=True, capture_output=True)
    both = folder / "both.pem"
    both.write_text((folder / "own.pem").read_text() + (folder / "own.key").read_text())
    return both


def test_a_certificate_for_other_names(
    measured_server: Deployment, perf_analyzer: PerfAnalyzer, tmp_path: Path
) -> None:
    both = foreign(tmp_path)
    alone = measured_server
    behind = Backend("server", alone.http, alone.grpc, alone.metrics, ("add",))
    with gateway(tmp_path, [behind], tls_certificate=both) as running:
        own = Addresses(running.http, running.grpc, Access(tls=Tls(both, own=True)))
        known = signature(own.endpoint(), "add")
        for protocol in PROTOCOLS:
            (answer,) = infer(own, known, collect(known, {"X": "[1, 2, 3, 4]"}), protocol=protocol)
            assert answer.values.tolist() == [[2, 3, 4, 5]]
        # For anybody else the name counts.
        other = Addresses(running.http, running.grpc, Access(tls=Tls(tmp_path / "ca.pem")))
        with pytest.raises(RequestFailed, match=r"the certificate of .* is not trusted"):
            other.endpoint().index()
        for protocol in PROTOCOLS:
            with pytest.raises(RequestFailed):
                infer(other, known, collect(known, {"X": "[1, 2, 3, 4]"}), protocol=protocol)
        wish, level = Wish({}, {}, interval_ms=300, stability_percentage=1000), Level("add", Concurrency(1))
        server = certified(own, ["http"])
        subjects = prepare(server, [level], wish)
        data = tmp_path / "data.json"
        data.write_text(document(subjects["add"].data, known))
        (result,) = measure([level], [tmp_path], 1, Bench(server, perf_analyzer, subjects, {"add": data}))
        assert result.repeat is not None, result.error
        with pytest.raises(RequestFailed, match="perf_analyzer compares names over gRPC"):
            certified(own, PROTOCOLS)


def test_a_token_does_not_show_itself(tmp_path: Path) -> None:
    token = Token(TOKEN, "a test")
    server = Addresses("127.0.0.1:1", "127.0.0.1:2", Access(token))
    assert TOKEN not in f"{token} {token!r} {server} {asdict(server)}"
    with pytest.raises(TypeError):
        json.dumps(asdict(server))
    level = Level("add", Concurrency(1))
    line = argv(Path("/perf_analyzer"), level, server, Measurement(), data=Path("d"), report=Path("r"))
    assert TOKEN not in shell_line(line, {})
    assert f"authorization:Bearer {TOKEN}" in bearing(line, server.access)
    assert bearing(line, Access()) == line
    empty = tmp_path / "empty"
    empty.write_text("# nothing\n")
    for file in (empty, tmp_path / "missing"):
        with pytest.raises(UsageError, match=str(file)):
            read_token(file)


def seen(*counts: int) -> dict[str, dict[str, Any]]:
    """The statistics of a model that has served so many requests, each of 2 ms, in each of its versions."""
    stats = [
        {
            "version": "1",
            "inference_count": str(count),
            "execution_count": str(count),
            "inference_stats": {
                "success": {"count": count},
                "queue": {"count": count, "ns": 500_000 * count},
                "compute_infer": {"count": count, "ns": 2_000_000 * count},
            },
        }
        for count in counts
    ]
    return {"m": {"model_stats": stats}}


def test_sums_over_servers_that_come_and_go() -> None:
    before: activity.Snapshots = {"a": seen(10), "b": seen(20), "gone": seen(5), "empty": {}}
    after: activity.Snapshots = {"a": seen(13), "b": seen(4), "new": seen(99), "empty": seen(2)}
    (did,) = activity.between(before, after, ["m", "other"])
    # b was loaded again, and empty has loaded it meanwhile; of the others nothing is known for the whole time.
    assert did.requests == 3 + 4 + 2
    assert (did.queue, did.compute, did.compute_infer) == (500, 2000, 2000)
    assert activity.replicas(after, "m") == 4
    assert activity.replicas({"gateway": seen(1, 2)}, "m") == 2
    assert activity.replicas({"a": seen(1), "empty": {}}, "m") == 1
    assert activity.replicas(after, "other") == 0


def test_a_row_from_sums() -> None:
    row = Row(100, 5000, 6000, 7000, 8000, latency_avg=5000, client_send=100, client_recv=50, queue=7, compute_infer=9)
    (did,) = activity.between({"a": seen(0)}, {"a": seen(10)}, ["m"])
    found = summed(row, [did])
    assert (found.queue, found.compute_infer, found.compute_input, found.network) == (500, 2000, 0, 5000 - 2500 - 150)
    assert (found.throughput, found.latency_p99) == (100, 8000)
    (member,) = activity.between({"a": seen(0)}, {"a": seen(20)}, ["m"])
    ensemble = summed(row, [did, member])
    assert (ensemble.queue, ensemble.compute_infer) == (0, 4000)
    nothing = summed(row, [])
    assert (nothing.queue, nothing.compute, nothing.network, nothing.latency_avg) == (None, None, None, 5000)


def test_request_timeout(tmp_path: Path) -> None:
    program("haproxy")
    repository(tmp_path / "model_repository")
    planned = tritonkit(tmp_path, "up", "--request-timeout", "90", "--dry-run", "--json")
    assert planned.returncode == 0, planned.stderr
    assert "timeout server 90000ms" in planned.stdout
    assert os.listdir(tmp_path) == ["model_repository"]
