"""`tritonkit up` behind a gateway that asks for TLS and a token: what a user is told, and what he can do."""

from __future__ import annotations

import json
import ssl
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from gateways import certificate
from serving import ANY_PORTS, echo_repository, tritonkit, wait_for
from system_packages import program

from tritonkit.serve import Deployment, running

TOKEN = "0123456789abcdef"  # noqa: S105


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Deployment, str]]:
    """The deployment, and what `up` said of it."""
    project = tmp_path_factory.mktemp("guarded")
    echo_repository(project / "models")
    tokens = project / "tokens"
    tokens.touch(mode=0o600)
    tokens.write_text(f"{TOKEN}\n")
    _, both = certificate(project)
    guards = ("--tokens", str(tokens), "--tls-certificate", str(both), "--allow-model-control")
    path = {"PATH": f"{Path(program('haproxy')).parent}:/usr/bin:/bin"}
    done = tritonkit(project, "up", "models", "--detach", *ANY_PORTS, *guards, env=path)
    assert done.returncode == 0, done.stderr
    try:
        yield running(project), done.stdout
    finally:
        assert tritonkit(project, "down").returncode == 0


def test_the_addresses_say_tls(guarded: tuple[Deployment, str]) -> None:
    deployment, said = guarded
    for shown in (said, tritonkit(deployment.project, "status").stdout):
        assert f"  HTTP     https://{deployment.http}\n" in shown
        assert f"  gRPC     {deployment.grpc} (TLS)\n" in shown
        assert f"  metrics  https://{deployment.metrics}/metrics\n" in shown


def test_model_control_that_is_allowed_works(guarded: tuple[Deployment, str]) -> None:
    deployment, _ = guarded

    def ask(path: str) -> str:
        request = urllib.request.Request(
            f"https://{deployment.http}{path}", data=b"{}", headers={"Authorization": f"Bearer {TOKEN}"}
        )
        context = ssl.create_default_context(cafile=str(deployment.project / "certificate.pem"))
        with urllib.request.urlopen(request, timeout=30, context=context) as answer:
            return str(answer.read().decode())

    def state() -> str:
        (model,) = json.loads(ask("/v2/repository/index"))
        return str(model["state"])

    assert state() == "READY"
    ask("/v2/repository/models/echo/unload")
    wait_for(lambda: state() == "UNAVAILABLE")
    ask("/v2/repository/models/echo/load")
    assert state() == "READY"
