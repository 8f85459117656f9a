"""No input ends in a traceback: the loader, the planner and the importer refuse in their own words, or succeed.

A few hundred inputs in the suite; ``pytest -m fuzz`` tries 100,000 (FUZZ_INPUTS says another number). What a run
finds is kept in tests/fuzz_cases, and tried in every suite.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from mutations import configs, specs
from onnx_models import identity

from tritonkit.errors import SpecError
from tritonkit.repository import build
from tritonkit.repository.importing import import_repository

CASES = Path(__file__).parent / "fuzz_cases"
INPUTS = int(os.environ.get("FUZZ_INPUTS", "100000"))
FEW = settings(max_examples=150, suppress_health_check=list(HealthCheck))
MANY = settings(max_examples=INPUTS // 2, suppress_health_check=list(HealthCheck), database=None)

# What a mutated pbtxt is tried on: names that configurations give, versions, and what no version is.
FILES = ("1/model.py", "3/model.onnx", "l.txt", "warmup/w.bin", "initial_state/s", "configs/a.pbtxt", "1/.x", "x y/z")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    # Some folders deep, so that ".." as a source holds little.
    folder = tmp_path_factory.mktemp("fuzz") / "a/b/project"
    (folder / "src").mkdir(parents=True)
    (folder / "src/model.py").write_text("")
    (folder / "l.txt").write_text("a\n")
    identity(folder / "m.onnx")
    (folder / "broken.onnx").write_bytes((folder / "m.onnx").read_bytes()[:40])
    for name in FILES:
        path = folder / "old/m" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    return folder


def plan(folder: Path, text: bytes) -> None:
    """Plan a repository from a spec, with all checks and without."""
    spec = folder / "spec.yaml"
    spec.write_bytes(text)
    for check in (True, False):
        with refusals():
            build.compare([spec], [], {"X": "m.onnx"}, folder / "out", check=check)


def take_in(folder: Path, text: bytes) -> None:
    """Import a repository with a config.pbtxt; that the spec builds it again is part of importing."""
    (folder / "old/m/config.pbtxt").write_bytes(text)
    output = folder / "imported.yaml"
    output.unlink(missing_ok=True)
    with refusals():
        import_repository(folder / "old", output)
    if output.exists():
        plan(folder, output.read_bytes())


@contextmanager
def refusals() -> Iterator[None]:
    """Lets our own errors pass; each has something to say, and can be said on any terminal."""
    refusal: SpecError | None = None
    try:
        yield
    except SpecError as error:
        refusal = error
    if refusal is not None:
        assert all(fault.message for fault in refusal.faults)
        str(refusal).encode()


@FEW
@given(text=specs())
def test_specs(folder: Path, text: bytes) -> None:
    plan(folder, text)


@FEW
@given(text=configs())
def test_repositories(folder: Path, text: bytes) -> None:
    take_in(folder, text)


@pytest.mark.fuzz
@pytest.mark.timeout(7200)
@MANY
@given(text=specs())
def test_many_specs(folder: Path, text: bytes) -> None:
    plan(folder, text)


@pytest.mark.fuzz
@pytest.mark.timeout(7200)
@MANY
@given(text=configs())
def test_many_repositories(folder: Path, text: bytes) -> None:
    take_in(folder, text)


@pytest.mark.parametrize("case", sorted(CASES.glob("*.yaml")), ids=lambda case: case.stem)
def test_specs_that_once_failed(folder: Path, case: Path) -> None:
    plan(folder, case.read_bytes())


@pytest.mark.parametrize("case", sorted(CASES.glob("*.pbtxt")), ids=lambda case: case.stem)
def test_repositories_that_once_failed(folder: Path, case: Path) -> None:
    take_in(folder, case.read_bytes())
