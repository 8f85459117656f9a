"""The pages on checks, made from the rules, and from what the real server says.

python tests/checks_tables.py rules > docs/checks.md
python tests/checks_tables.py ensembles > docs/ensembles.md
"""

from __future__ import annotations

import re
import sys
from string import Formatter

from ensemble_cases import CASES, Case
from judging import inspect
from oracle import PYTHON_MODEL, Oracle, Verdict, oracle

from tritonkit.modelconfig.checking import RULES
from tritonkit.modelconfig.rules.rule import Rule

_TITLES = {
    "ID": "What a model is: name, backend, platform, versions, artifact",
    "IO": "Inputs and outputs",
    "BIO": "Batch inputs and outputs",
    "ART": "What the artifact says too",
    "DYN": "Dynamic batching",
    "RSP": "The response cache",
    "SEQ": "Sequence batching",
    "INS": "Instance groups and GPUs",
    "NUM": "Values without a name",
    "WRM": "Warmup",
    "LBL": "Labels",
    "PAR": "Parameters",
    "PYT": "What the native pytorch backend enforces",
    "TRT": "What the native tensorrt backend enforces",
    "BND": "What tritonkit's own onnxruntime backend refuses",
    "MET": "Metrics",
    "ENS": "The steps of an ensemble",
    "PIP": "An ensemble and its models",
}


def rules_page() -> str:
    """Every rule, part by part."""
    seen = sum(rule.seen for rule in RULES)
    lines = [
        "# What `tritonkit check` tells",
        "",
        "Made by `python tests/checks_tables.py rules > docs/checks.md`; do not edit.",
        "",
        f"{len(RULES)} rules. An *error* is what Triton refuses to load; the exit code is then 2. {seen} of the rules",
        "are held against a real tritonserver 2.51.0 by tests; the others say why they are not. Words in capitals",
        "stand for values.",
        "",
        "| code | what it is about |",
        "| --- | --- |",
        "| `SPEC` | the spec, or a model's config.pbtxt, cannot be used at all: the message says what was expected |",
    ]
    part = ""
    for rule in RULES:
        prefix = re.sub(r"\d", "", rule.code)
        if prefix != part:
            part = prefix
            lines += ["", f"## {_TITLES[prefix]}", "", "| code | severity | what is wrong | Triton says | write |"]
            lines += ["| --- | --- | --- | --- | --- |"]
        lines.append(f"| {' | '.join(_cells(rule))} |")
    return "\n".join(lines) + "\n"


def _cells(rule: Rule) -> list[str]:
    triton = f"`{_filled(rule.triton)}`" if rule.triton else "nothing"
    if rule.triton == "{words}":
        triton = "words that depend on the case"
    severity = rule.severity.value if rule.seen else f"{rule.severity.value}; not seen: {rule.unseen}"
    return [
        f"`{rule.code}`",
        severity,
        _escaped(_filled(rule.says)),
        _escaped(triton),
        _escaped(f"`{_filled(rule.instead)}`" if "{" in rule.instead else _filled(rule.instead)),
    ]


def _filled(template: str) -> str:
    """A template with its words in capitals."""
    return "".join(
        literal + (name.upper() if name not in (None, "nearest", "batch") else "")
        for literal, name, _, _ in Formatter().parse(template)
    )


def _escaped(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")


def ensembles_page(verdicts: list[Verdict]) -> str:
    """Every ensemble case, with the server's verdict beside ours."""
    lines = [
        "# Ensembles: the server's verdict beside ours",
        "",
        "Made by `python tests/checks_tables.py ensembles > docs/ensembles.md` with tritonserver 2.51.0; do not edit.",
        "",
        "| case | tritonkit finds | the server says |",
        "| --- | --- | --- |",
        *(ensemble_row(case, verdict) for case, verdict in zip(CASES, verdicts, strict=True)),
    ]
    return "\n".join(lines) + "\n"


def ensemble_row(case: Case, verdict: Verdict) -> str:
    """One row of the table."""
    codes = dict.fromkeys(finding.code for finding in inspect(contents(case)).errors)
    return f"| {case.title} | {', '.join(codes) or 'nothing'} | {_escaped(_said(verdict))} |"


def contents(case: Case) -> dict[str, str | bytes]:
    """The files of a case."""
    return {path: PYTHON_MODEL if text == "model" else text for path, text in case.files.items()}


def _said(verdict: Verdict) -> str:
    if verdict.loads:
        return "loads"
    words = verdict.said.strip().splitlines()[-1] if "failed to poll" in verdict.said else verdict.said.strip()
    words = re.sub(r"^\"?(?:Poll failed for model directory|load failed for model) '\w+': ", "", words)
    return " ".join(words.strip('";').split())


def _verdicts(judge: Oracle) -> list[Verdict]:
    return [judge.ask(contents(case), "e") for case in CASES]


def main() -> None:
    if sys.argv[1:] == ["rules"]:
        sys.stdout.write(rules_page())
    elif sys.argv[1:] == ["ensembles"]:
        with oracle(auto_complete=False) as judge:
            sys.stdout.write(ensembles_page(_verdicts(judge)))
    else:
        sys.exit(__doc__)


if __name__ == "__main__":
    main()
