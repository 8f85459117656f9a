"""Fixtures that several test modules share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from measured import analyzer, repository
from serving import echo_repository, up

from tritonkit.serve import Deployment
from tritonkit.tools.perf_analyzer import PerfAnalyzer


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
