"""Ensembles against the real server: its verdict beside ours, case by case."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from checks_tables import contents, ensemble_row
from ensemble_cases import CASES, Case
from judging import foretold, inspect
from oracle import Oracle, oracle

from tritonkit.modelconfig.checking import RULES

PAGE = Path(__file__).parent.parent / "docs/ensembles.md"


@pytest.fixture(scope="module")
def judge() -> Iterator[Oracle]:
    with oracle(auto_complete=False) as asked:
        yield asked


@pytest.mark.parametrize("case", CASES, ids=[case.title.replace(" ", "-") for case in CASES])
def test_the_server_agrees(judge: Oracle, case: Case) -> None:
    files = contents(case)
    found = inspect(files)
    codes = {finding.code for finding in found.errors}
    verdict = judge.ask(files, "e")
    assert case.code in codes if case.code else not codes
    assert verdict.loads == (not case.code), verdict.said
    assert not case.code or foretold(found, verdict), (verdict.said, [finding.triton for finding in found.errors])
    hint = "python tests/checks_tables.py ensembles > docs/ensembles.md"
    assert ensemble_row(case, verdict) in PAGE.read_text().splitlines(), hint


def test_every_rule_has_a_case() -> None:
    told = {rule.code for rule in RULES if rule.code.startswith(("ENS", "PIP"))}
    assert told - {case.code for case in CASES} == set()
    assert len(CASES) >= 30
