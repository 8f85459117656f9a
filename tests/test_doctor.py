"""``tritonkit doctor``: what counts as missing, and what is said to mend it."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tritonkit import doctor
from tritonkit.cli.app import app
from tritonkit.doctor import Finding
from tritonkit.errors import ToolMissing
from tritonkit.tools import nvidia_smi, packages, tritonserver


def versions(monkeypatch: pytest.MonkeyPatch, told: Mapping[str, str | None]) -> None:
    """Let these distributions have these versions; None for one that is not installed."""
    real = importlib.metadata.version

    def version(name: str) -> str:
        found = told[name] if name in told else real(name)
        if found is None:
            raise importlib.metadata.PackageNotFoundError(name)
        return found

    monkeypatch.setattr(importlib.metadata, "version", version)


def program(path: Path, text: str = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def findings() -> dict[str, Finding]:
    return {finding.name: finding for finding in doctor.examine()}


def lacking(found: Mapping[str, Finding]) -> list[str]:
    return [name for name, finding in found.items() if finding.required and not finding.usable]


@pytest.fixture
def native(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The root of a native server that is on PATH; it has no folder of backends yet."""
    binary = program(tmp_path / "triton" / "bin" / "tritonserver")
    monkeypatch.setenv("PATH", f"{binary.parent}:/usr/bin:/bin")
    return tmp_path / "triton"


def test_this_environment_can_serve() -> None:
    found = findings()
    assert not set(lacking(found)) & {"python", "tritonserver", "numpy < 2", "onnxruntime"}
    assert found["tritonserver"].found.endswith(" and tritonkit's own")
    assert found["numpy < 2"].found == importlib.metadata.version("numpy")


def test_a_native_server_needs_no_packages(native: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (native / "backends" / "python").mkdir(parents=True)
    versions(monkeypatch, {"numpy": "2.1.0", "onnxruntime": None, "onnxruntime-gpu": None})
    found = findings()
    assert found["tritonserver"].found.endswith("backends: python")
    assert not found["numpy < 2"].usable
    assert not found["onnxruntime"].usable
    assert not set(lacking(found)) & {"tritonserver", "numpy < 2", "onnxruntime"}


def test_a_native_server_without_backends_is_a_finding(native: Path) -> None:
    server = findings()["tritonserver"]
    assert server.required
    assert server.problem == (
        f"{native}/bin/tritonserver has no folder of backends: {native}/backends: No such file or directory"
    )
    assert "take it off PATH" in server.remedy
    assert server.requirements == ()


def test_what_provisioning_needs_is_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tritonkit.tools.packages.version", lambda _name: None)
    lacking = {finding.name: finding.remedy for finding in doctor.examine() if not finding.usable}
    for name in ("scipy", "ortools"):
        assert lacking[name] == "pip install 'tritonkit[provision]'"


def test_the_bundled_server_needs_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    versions(monkeypatch, {"numpy": "2.1.0", "onnxruntime": None, "onnxruntime-gpu": None})
    found = findings()
    assert {"numpy < 2", "onnxruntime", "tritonserver"} <= set(lacking(found))
    assert found["numpy < 2"].requirements == ("numpy<2",)
    assert found["onnxruntime"].requirements == packages.requirements("tritonkit", "cpu") != ()


def test_pip_is_asked_for_a_server_only_where_there_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> tritonserver.TritonServer:
        raise ToolMissing("tritonserver is not installed", hint="Install it")

    with monkeypatch.context() as patch:
        # No bash: a package would not help.
        patch.setenv("PATH", str(tmp_path))
        patch.setattr(tritonserver, "NATIVE_ROOT", tmp_path)
        assert findings()["tritonserver"].problem.startswith("bash is not installed")
        assert findings()["tritonserver"].requirements == ()
    monkeypatch.setattr(tritonserver, "find", missing)
    versions(monkeypatch, {"nvidia-pytriton": None})
    assert findings()["tritonserver"].requirements == packages.requirements("tritonkit", "server") != ()


def test_a_checkout_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    def requires(name: str) -> list[str]:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "requires", requires)
    versions(monkeypatch, {"onnxruntime": None, "onnxruntime-gpu": None})
    onnxruntime = findings()["onnxruntime"]
    assert (onnxruntime.problem, onnxruntime.requirements) == ("not installed", ())
    assert doctor.remedies([onnxruntime], tried=False) == ("pip install 'tritonkit[cpu]' (or [gpu])",)


def test_the_requirements_of_an_extra() -> None:
    assert [text.split(">")[0] for text in packages.requirements("tritonkit", "cpu")] == ["onnxruntime"]
    assert packages.requirements("tritonkit", "no-such-extra") == ()


def test_remedies() -> None:
    needs = {"serves": "serving", "problem": "gone", "required": True}
    found = [
        Finding("a", remedy="pip install a", requirements=("a",), **needs),  # type: ignore[arg-type]
        Finding("b", remedy="pip install b", requirements=("b",), **needs),  # type: ignore[arg-type]
        Finding("c", remedy="install bash", **needs),  # type: ignore[arg-type]
        Finding("d", "something else", problem="gone", remedy="nobody needs it"),
        Finding("e", "serving", found="1.0", required=True),
    ]
    assert doctor.remedies(found, tried=False) == ("tritonkit doctor --install", "install bash")
    assert doctor.remedies(found, tried=True) == ("pip install a", "pip install b", "install bash")


def test_after_an_installation_it_is_not_advised_again(monkeypatch: pytest.MonkeyPatch) -> None:
    versions(monkeypatch, {"onnxruntime": "1.19.0", "onnxruntime-gpu": "1.19.0"})
    result = CliRunner().invoke(app, ["doctor", "--install"])
    assert result.exit_code == 3
    said = result.stderr.partition("error:")[2]
    assert "serving on this machine lacks: onnxruntime\n" in said
    assert "hint: pip uninstall onnxruntime onnxruntime-gpu, then install the one you want" in said
    assert "--install" not in said


def test_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    program(tmp_path / "nvidia-smi", "echo 'NVIDIA H200, 143771 MiB, 570.1'; echo 'Odd, Name, 1 MiB, 570.1'")
    first, second = nvidia_smi.gpus()
    assert (first.name, first.memory, first.driver) == ("NVIDIA H200", "143771 MiB", "570.1")
    assert second.name == "Odd, Name"
    assert findings()["GPUs"].found == "0: NVIDIA H200, 143771 MiB, 570.1; 1: Odd, Name, 1 MiB, 570.1"
    program(tmp_path / "nvidia-smi", "echo 'No devices were found'")
    assert findings()["GPUs"].problem == "the NVIDIA driver sees none"
    program(tmp_path / "nvidia-smi", "echo 'no driver runs'; exit 9")
    assert findings()["GPUs"].problem == "no driver runs"
