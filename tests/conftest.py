"""Fixtures that several test modules share."""

from __future__ import annotations

import fcntl
import importlib.util
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from measured import analyzer, repository
from serving import echo_repository, up

from tritonkit.serve import Deployment
from tritonkit.serve.backend_directory import OWN_BACKENDS
from tritonkit.serve.warden import SHARED_MEMORY
from tritonkit.tools import tritonserver
from tritonkit.tools.perf_analyzer import PerfAnalyzer

# A shell that starts us in the background has Ctrl-C ignored, in us and in whatever we start: tests press it.
signal.signal(signal.SIGINT, signal.default_int_handler)

# The workers of -n are told how wide the terminal of the run is; what tests start looks at its own.
for name in ("COLUMNS", "LINES"):
    os.environ.pop(name, None)

# Beside other tests a single example may take long, and the next one may not. The examples are the same every time, so
# that a failure comes of what was changed; --hypothesis-profile=explore looks for others.
settings.register_profile("explore", deadline=None)
settings.register_profile("shared machine", settings.get_profile("explore"), derandomize=True)
settings.load_profile("shared machine")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave ``alone`` to a run with one test at a time: this is one of several workers where it has an input."""
    if hasattr(config, "workerinput"):
        alone = [item for item in items if item.get_closest_marker("alone")]
        config.hook.pytest_deselected(items=alone)
        items[:] = [item for item in items if item not in alone]


@pytest.fixture(scope="session")
def echo_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """A deployment of one Python model, ``echo``, for tests that do not harm it."""
    project = tmp_path_factory.mktemp("echo")
    with up(project, echo_repository(project / "models")) as deployment:
        yield deployment


@pytest.fixture(scope="session")
def measured_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """A deployment of the models of ``measured``, for tests that do not harm it."""
    project = tmp_path_factory.mktemp("measured")
    with up(project, repository(project / "models")) as deployment:
        yield deployment


@pytest.fixture(scope="session")
def perf_analyzer() -> PerfAnalyzer:
    """The real perf_analyzer."""
    return analyzer()


@pytest.fixture
def regions_alone() -> Iterator[None]:
    """perf_analyzer's shared memory, for one test at a time: its regions have the same names in every process."""
    folder = os.open(SHARED_MEMORY, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


@pytest.fixture
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of tritonkit's own."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("TRITONKIT_CACHE", str(folder))
    return folder


@pytest.fixture
def backend(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module of the onnxruntime backend itself, outside the server."""
    monkeypatch.syspath_prepend(tritonserver.find().backends / "python")
    source = OWN_BACKENDS / "onnxruntime" / "model.py"
    found = importlib.util.spec_from_file_location("onnxruntime_backend", source)
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module
