"""The record beside every artifact, and rebuilding exactly when something that counts has changed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from exporting import Project, spec, torch_spec
from onnx_models import identity

from tritonkit.artifacts import cache as artifact_cache
from tritonkit.artifacts import provenance
from tritonkit.repository.build import current_repository
from tritonkit.tools import digests, packages

FACTORY = """\
import helper_module
import torch_modules
from pathlib import Path


def cnn():
    return torch_modules.cnn(width=int((Path(__file__).parent / "width.txt").read_text()) + helper_module.MORE)
"""
SPEC = torch_spec().replace("torch_modules:", "factory_module:")


@pytest.fixture
def project(tmp_path: Path, cache: Path) -> Project:
    made = Project(tmp_path, SPEC)
    (tmp_path / "factory_module.py").write_text(FACTORY)
    (tmp_path / "helper_module.py").write_text("MORE = 1\n")
    (tmp_path / "width.txt").write_text("3")
    (tmp_path / "unrelated_module.py").write_text("MORE = 1\n")
    return made


def test_records_and_rebuilds(project: Project, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (first,) = project.export()
    record = provenance.read(Path(first["path"]))
    assert record is not None
    assert record.sha256 == digests.of_file(Path(first["path"]))
    assert set(record.dependencies) == {"factory_module.py", "helper_module.py", "torch_modules.py", "width.txt"}
    assert {"torch", "onnx", "onnxscript", "onnxruntime"} <= set(record.tools)
    assert record.source["torch"] == "factory_module:cnn"
    assert record.precision == "FP32"
    assert [row["question"] for row in record.parity["rows"]] == ["batch 1", "batch 7", "batch 8"]
    assert all(row["relative"] < 1e-5 for row in record.parity["rows"])

    # Nothing that counts has changed: nothing is made.
    (project.folder / "unrelated_module.py").write_text("MORE = 2\n")
    (project.folder / "helper_module.py").chmod(0o755)
    assert project.export()[0]["time"] == "cached"
    assert project.run("build-repo", "spec.yaml").exit_code == 0
    assert project.run("build-repo", "spec.yaml", "--check").exit_code == 0
    assert current_repository([project.folder / "spec.yaml"], [], {}) is not None

    # A file that the factory read.
    (project.folder / "width.txt").write_text("5")
    assert project.run("build-repo", "spec.yaml", "--check").exit_code == 1
    assert project.export()[0]["time"] != "cached"
    (project.folder / "width.txt").write_text("3")
    assert project.run("build-repo", "spec.yaml", "--check").exit_code == 0
    assert project.export()[0]["time"] == "cached"

    # A package of another version.
    installed = packages.installed
    monkeypatch.setattr(packages, "installed", lambda names: {**installed(names), "torch": "9.9.9"})
    result = project.run("build-repo", "spec.yaml", "--check")
    assert result.exit_code == 1
    assert "torch factory_module:cnn -> model.onnx" in result.stdout
    # One that is not here any more changes nothing.
    monkeypatch.setattr(packages, "installed", lambda names: {**installed(names), "torch": None})
    assert project.run("build-repo", "spec.yaml", "--check").exit_code == 0

    # What is asked of the export.
    project.write(SPEC + "    export: {tolerance: {relative: 0.01}}\n")
    assert project.run("build-repo", "spec.yaml", "--check").exit_code == 1


def test_a_damaged_entry_is_made_anew(tmp_path: Path, cache: Path) -> None:
    identity(tmp_path / "net.onnx")
    project = Project(
        tmp_path, spec("net.onnx", backend="tensorrt", max_batch_size="8", export="{compute_capabilities: [8.9]}")
    )
    path = Path(project.export()[0]["path"])
    whole = path.read_bytes()
    path.write_bytes(whole[:100])
    assert project.export()[0]["time"] != "cached"
    assert path.read_bytes()[:100] == whole[:100]
    assert path.stat().st_size > 100
    provenance.beside(path).write_text("{}")
    assert project.export()[0]["time"] != "cached"
    assert artifact_cache.read(path.parent) is not None


def test_dry_run_makes_nothing(tmp_path: Path, cache: Path) -> None:
    project = Project(tmp_path, torch_spec())
    (row,) = project.export("--dry-run")
    assert row["made"] == "would be made"
    for option in ("--dry-run", "--diff", "--check"):
        result = project.run("build-repo", "spec.yaml", option, "--json")
        assert result.exit_code == (1 if option == "--check" else 0)
        assert json.loads(result.stdout) == {"to_export": {"net": "torch torch_modules:cnn -> model.onnx"}}
    assert not list(cache.iterdir())
    assert not (tmp_path / "model_repository").exists()


def test_only_some_models(tmp_path: Path, cache: Path) -> None:
    identity(tmp_path / "net.onnx")
    text = spec("net.onnx", backend="tensorrt", max_batch_size="8", export="{compute_capabilities: [8.9]}")
    project = Project(tmp_path, text + text.replace("net:", "other:").partition("models:\n")[2])
    assert [row["model"] for row in project.export("other")] == ["other"]
    assert "there is no model 'nett'; did you mean 'net'?" in project.refused("nett", code=2)


def test_without_torch_the_missing_extra_is_named(tmp_path: Path, cache: Path) -> None:
    Project(tmp_path, torch_spec())
    hidden = tmp_path / "hidden"
    hidden.mkdir()
    (hidden / "sitecustomize.py").write_text("import sys; sys.modules['torch'] = None\n")
    argv = [sys.executable, "-m", "tritonkit", "export", "spec.yaml"]
    env = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(hidden), "TRITONKIT_CACHE": str(cache)}
    done = subprocess.run(argv, cwd=tmp_path, env=env, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 3, done.stderr
    assert "net: torch is not installed" in done.stderr
    assert "pip install 'tritonkit[export]'" in done.stderr
