"""Every rule against the real server: what breaks it is refused, in the words that tritonkit foretells."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from judging import foretold, inspect, model
from oracle import Oracle, oracle
from rule_cases import CASES, Case

from tritonkit.modelconfig.checking import RULES
from tritonkit.modelconfig.findings import Severity


@pytest.fixture(scope="module")
def judge() -> Iterator[Oracle]:
    with oracle(auto_complete=False) as asked:
        yield asked


@pytest.mark.parametrize("case", CASES, ids=[f"{number}-{case.code or 'sound'}" for number, case in enumerate(CASES)])
def test_the_server_agrees(judge: Oracle, case: Case) -> None:
    files = model("m", case.text, case.files)
    found = inspect(files)
    codes = {finding.code for finding in found.errors}
    verdict = judge.ask(files, "m")
    assert case.code in codes if case.code else not codes
    assert verdict.loads == (not case.code), verdict.said
    assert not case.code or foretold(found, verdict), (verdict.said, [finding.triton for finding in found.errors])


def test_every_rule_has_a_case() -> None:
    tried = {case.code for case in CASES}
    told = {rule.code for rule in RULES if rule.severity is Severity.ERROR and rule.seen}
    elsewhere = {code for code in told if code.startswith(("ENS", "PIP", "ART"))}
    assert told - elsewhere - tried == set()
    assert tried - {""} <= {rule.code for rule in RULES}


def test_codes_are_unique_and_whole() -> None:
    codes = [rule.code for rule in RULES]
    assert len(codes) == len(set(codes))
    for rule in RULES:
        assert rule.says
        assert rule.instead, rule.code
        assert rule.triton or rule.severity is not Severity.ERROR, rule.code
