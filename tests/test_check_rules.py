"""Every rule against the real server: what breaks it is refused, in the words that tritonkit foretells."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from checks_tables import rules_page
from configurations import configurations
from hypothesis import given, settings
from judging import foretold, inspect, model
from oracle import Oracle, oracle
from rule_cases import CASES, SOUND, Case

from tritonkit.modelconfig.checking import RULES, check
from tritonkit.modelconfig.findings import Severity
from tritonkit.modelconfig.rules.rule import Machine, Subject
from tritonkit.modelconfig.text import parse


@pytest.fixture(scope="module")
def judge() -> Iterator[Oracle]:
    with oracle(auto_complete=False) as asked:
        yield asked


@pytest.mark.parametrize("case", CASES, ids=[f"{number}-{case.code or 'sound'}" for number, case in enumerate(CASES)])
def test_the_server_agrees(judge: Oracle, case: Case) -> None:
    with oracle() if case.complete else nullcontext(judge) as asked:
        _compare(asked, case)


def _compare(judge: Oracle, case: Case) -> None:
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
    elsewhere = {code for code in told if code.startswith(("ENS", "PIP", "ART", "BND"))}
    assert told - elsewhere - tried == set()
    assert tried - {""} <= {rule.code for rule in RULES}


def test_the_page_is_current() -> None:
    page = Path(__file__).parent.parent / "docs/checks.md"
    assert rules_page() == page.read_text(), "python tests/checks_tables.py rules > docs/checks.md"


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("PYT01", 'backend: "pytorch"'),
        ("PYT02", 'backend: "pytorch" input [{ name: "a__0" data_type: TYPE_UINT32 dims: [1] }]'),
        ("PYT03", 'backend: "pytorch" max_batch_size: 2 input [{ name: "a__0" data_type: TYPE_STRING dims: [1] }]'),
        ("TRT01", 'backend: "tensorrt" input [{ name: "a" data_type: TYPE_STRING dims: [1] }]'),
        (
            "IO012",
            'backend: "tensorrt" input [{ name: "a" data_type: TYPE_FP16 dims: [1] is_non_linear_format_io: true }]',
        ),
        ("INS06", 'backend: "tensorrt" instance_group [{ profile: "a" }]'),
        ("MET01", 'backend: "python" model_metrics { metric_control [{ histogram_options { buckets: 1 } }] }'),
        ("MET02", 'backend: "python" model_metrics { metric_control [{ metric_identifier { } }] }'),
        ("MET03", 'backend: "python" model_metrics { metric_control [{ metric_identifier { family: "f" } }] }'),
        ("MET04", 'backend: "python" model_metrics { metric_control [{ histogram_options { } }] }'),
    ],
)
def test_rules_that_no_server_here_can_hold(code: str, said: str) -> None:
    assert code in {finding.code for finding in check([Subject("m", parse(said))])}
    assert next(rule for rule in RULES if rule.code == code).unseen


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("ID008", 'backend: "python" version_policy { specific { versions: [1, 7] } }'),
        ("ID016", 'backend: "python" version_policy { specific { versions: [1, 1] } }'),
        ("ID009", 'backend: "python" model_metrics { }'),
        ("DYN07", 'backend: "python" dynamic_batching { }'),
        ("INS04", 'backend: "python" instance_group [{ kind: KIND_GPU gpus: [3] }]'),
        ("INS07", 'backend: "onnxruntime" instance_group [{ kind: KIND_CPU }]'),
        ("SEQ30", 'backend: "python" sequence_batching { state [{ input_name: "a" }] }'),
    ],
)
def test_what_triton_does_not_refuse(code: str, said: str) -> None:
    (found,) = check([Subject("m", parse(said), files={"1/model.py": 1, "1/model.onnx": 1})])
    assert found.code == code
    assert not found.refuses


def test_all_else_has_a_case_too() -> None:
    told = {rule.code for rule in RULES if rule.severity is not Severity.ERROR}
    assert told == {"ID008", "ID009", "ID016", "DYN07", "INS04", "INS07", "SEQ30"}


def test_a_version_named_twice_is_taken_for_present() -> None:
    """The server hangs on such a Python model, in search of its file; an ensemble, which has none, it loads."""
    said = f"{SOUND} version_policy {{ specific {{ versions: [3, 3] }} }}"
    (error,) = [finding for finding in check([Subject("m", parse(said), files={"1/model.py": 1})]) if finding.refuses]
    assert error.code == "ID013"


@settings(max_examples=300)
@given(config=configurations())
def test_no_configuration_ends_in_a_traceback(config: Any) -> None:
    for machine in (Machine(), Machine(gpus=1, release=(24, 10), backends=frozenset(), agents=frozenset())):
        for files in (None, {"1/model.py": 1, "warmup/data": 2}):
            subjects = [Subject("m", config, machine, files), Subject("n", config, machine, files)]
            for finding in check(subjects):
                assert finding.message
                assert "{" not in finding.message.replace("{}", ""), finding


def test_codes_are_unique_and_whole() -> None:
    codes = [rule.code for rule in RULES]
    assert len(codes) == len(set(codes))
    for rule in RULES:
        assert rule.says
        assert rule.instead, rule.code
        assert rule.triton or rule.severity is not Severity.ERROR, rule.code
