"""The gateway's process and configuration as values, checked by HAProxy itself; nothing is served."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
from gateways import certificate, planned, write
from system_packages import program

from tritonkit.errors import ToolMissing, TritonkitError
from tritonkit.serve.gateway import (
    Backend,
    GatewayOptions,
    check_certificate,
    check_tokens,
    gateway_process,
    groups,
)
from tritonkit.tools import haproxy


def server(name: str, *models: str) -> Backend:
    return Backend(name, "127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3", models)


def test_the_process() -> None:
    spec = gateway_process(
        [server("a", "one"), server("b", "one")],
        GatewayOptions(address="0.0.0.0", http_port=80),  # noqa: S104 - nothing listens
        program=Path("/usr/sbin/haproxy"),
        project=Path("/project"),
        runtime=Path("/run/x"),
        deployment="0123abcd",
        inherited_env={"HOME": "/h"},
    )
    assert spec.name == spec.kind == "gateway"
    assert spec.argv == (
        *("/usr/sbin/haproxy", "-W", "-db", "-S", "/run/x/haproxy.sock,mode,600"),
        *("-f", "/project/.tritonkit/gateway/haproxy.cfg"),
    )
    assert spec.env == {"HOME": "/h", "TRITONKIT_DEPLOYMENT": "0123abcd.gateway."}
    assert spec.addresses == {"http": "127.0.0.1:80", "grpc": "127.0.0.1:8001", "metrics": "127.0.0.1:8002"}
    assert (spec.after, spec.needs) == (("a", "b"), ())
    assert str(spec.check) == "the gateway answers at 127.0.0.1:80"
    (folder,) = spec.folders
    assert folder.path == Path("/project/.tritonkit/gateway")
    assert "bind 0.0.0.0:80\n" in folder.files["haproxy.cfg"]
    assert folder.files["models.map"] == "one all\n"


def test_servers_with_the_same_models_form_a_group() -> None:
    found = groups([server("a", "x", "y", "z"), server("b", "y", "z"), server("c", "z", "w")])
    shape = {group.name: ([one.name for one in group.servers], group.models) for group in found}
    assert shape == {
        "all": (["a", "b", "c"], ("z",)),
        "1": (["c"], ("w",)),
        "2": (["a"], ("x",)),
        "3": (["a", "b"], ("y",)),
    }


def test_only_models_with_several_servers_can_stick() -> None:
    found = groups([server("a", "x", "y", "z"), server("b", "y", "z")], sticky_models=("x", "y"))
    assert [(group.models, group.sticky) for group in found] == [(("z",), False), (("x",), False), (("y",), True)]


OPTIONS: dict[str, dict[str, Any]] = {
    "defaults": {},
    "all interfaces": {"address": "0.0.0.0"},  # noqa: S104 - nothing listens
    "model control": {"allow_model_control": True},
    "tokens": {"tokens_file": Path("it's a file")},
    "times": {"request_timeout": 0.5, "client_timeout": 86400.0, "header_timeout": 1.25},
    "sticky": {"sticky_models": ("one",)},
    "few connections": {"max_connections": 10, "max_request_bytes": 1},
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize(
    "models", [[()], [("one",)], [("one",), ("one",)], [("one", "ünï-çødé.2", "x" * 127), ("one", "y")]], ids=len
)
def test_haproxy_takes_the_configuration_without_a_word(
    tmp_path: Path, options: dict[str, Any], models: list[tuple[str, ...]]
) -> None:
    if "tokens_file" in options:
        options = {"tokens_file": tmp_path / options["tokens_file"]}
        options["tokens_file"].write_text("0123456789abcdef\n")
    backends = [server(f"s-{number}", *names) for number, names in enumerate(models)]
    # A folder with a name that needs quotes.
    spec = planned(tmp_path / "it's here", tmp_path, backends, **options)
    done = subprocess.run(
        [program("haproxy"), "-c", "-f", write(spec)], capture_output=True, text=True, check=False, timeout=30
    )
    assert (done.returncode, done.stdout.strip(), "WARNING" in done.stderr) == (0, "Configuration file is valid", False)


@pytest.mark.parametrize("name", ["two words", "a#b", "50%", "a'b", "a/b", "x" * 128, "é" * 64, ""])
def test_a_name_that_cannot_be_routed_by(tmp_path: Path, name: str) -> None:
    with pytest.raises(TritonkitError, match="cannot route by a model's name") as error:
        planned(tmp_path, tmp_path, [server("a", name)])
    assert "Rename it" in str(error.value)


def test_tokens_that_can_be_used(tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    file.write_text("# ours\n\n0123456789abcdef\n")
    file.chmod(0o600)
    check_tokens(file)


@pytest.mark.parametrize(
    ("text", "mode", "words"),
    [
        (None, 0, "No such file"),
        ("0123456789abcdef\n", 0o640, "others may read it"),
        ("# nothing\n\n", 0o600, "holds no token"),
        ("0123456789abcdef\nshort\n", 0o600, "line 2"),
        ("0123456789abcdef 0123456789abcdef\n", 0o600, "line 1"),
        ("0123456789abcdéf\n", 0o600, "ASCII"),
    ],
)
def test_tokens_that_cannot_be_used(tmp_path: Path, text: str | None, mode: int, words: str) -> None:
    file = tmp_path / "tokens"
    if text is not None:
        file.write_text(text)
        file.chmod(mode)
    with pytest.raises(TritonkitError, match=words) as error:
        check_tokens(file)
    assert "0123456789" not in str(error.value)


def test_a_certificate_and_its_key(tmp_path: Path) -> None:
    _, both = certificate(tmp_path)
    check_certificate(both)


def test_certificates_that_cannot_be_used(tmp_path: Path) -> None:
    alone, both = certificate(tmp_path)
    faults = {tmp_path / "none": "cannot be read: No such file", alone: "no certificate with its key"}
    for file, words in faults.items():
        with pytest.raises(TritonkitError, match=words):
            check_certificate(file)
    both.chmod(0o644)
    with pytest.raises(TritonkitError, match="others may read its key") as error:
        check_certificate(both)
    assert error.value.hint is not None
    subprocess.run(["sh", "-c", error.value.hint.removeprefix("Run: ")], check=True)
    check_certificate(both)


def test_haproxy_is_found_where_users_have_no_path_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    installed = program("haproxy")
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    assert haproxy.find().samefile(installed)
    assert haproxy.version(installed).startswith("HAProxy version ")


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ("HAProxy version 2.4.22 2023/02/14 - https://haproxy.org/\n", "needs 2.6 or later"),
        ("HA-Proxy version 1.8.19\n", "needs 2.6 or later"),
        ("HAProxy version 3.0.1 2024/06/10\nFeature list : +OPENSSL -LUA\n", "without Lua and the Prometheus exporter"),
        (None, "does not run"),
    ],
)
def test_an_haproxy_that_cannot_be_the_gateway(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str | None, words: str
) -> None:
    fake = tmp_path / "haproxy"
    fake.write_text("#!/bin/sh\nexit 1\n" if said is None else f"#!/bin/sh\ncat <<'END'\n{said}END\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    with pytest.raises(ToolMissing, match=words):
        haproxy.find()


def test_no_haproxy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(haproxy, "_SYSTEM_FOLDERS", ())
    with pytest.raises(ToolMissing) as error:
        haproxy.find()
    assert (error.value.exit_code, error.value.hint) == (3, "Install it with: apt-get install haproxy")
