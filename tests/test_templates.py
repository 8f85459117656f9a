"""Templates of the user's: they may say a configuration in another way, and never another configuration."""

from __future__ import annotations

from pathlib import Path

import pytest
from onnx_models import identity
from typer.testing import CliRunner, Result

from tritonkit.cli.app import app
from tritonkit.modelconfig.text import parse

EXTENDED = '{% extends "tritonkit/config.pbtxt.j2" %}{% block header %}# Ours.\n{% endblock %}'


@pytest.fixture(autouse=True)
def _project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    identity(tmp_path / "m.onnx")
    Path("spec.yaml").write_text("version: 1\nmodels: {m: {source: m.onnx, max_batch_size: 8, dynamic_batching: {}}}\n")


def build(template: str, *options: str) -> Result:
    Path("templates").mkdir(exist_ok=True)
    Path("templates/config.pbtxt.j2").write_text(template)
    return CliRunner().invoke(app, ["build-repo", "spec.yaml", "--templates", "templates", *options])


def text() -> str:
    return Path("model_repository/m/config.pbtxt").read_text()


def test_a_template_may_extend_ours() -> None:
    assert CliRunner().invoke(app, ["build-repo", "spec.yaml"]).exit_code == 0
    plain = text()
    assert plain.startswith("# Written by tritonkit from spec.yaml")
    assert build(EXTENDED).exit_code == 0
    assert text() == "# Ours.\n" + plain.split("\n", 1)[1]
    assert build(EXTENDED, "--check").exit_code == 0


def test_a_template_may_include_others() -> None:
    Path("templates/parts").mkdir(parents=True)
    Path("templates/parts/head").write_text("# By {{ origin }}\n")
    template = EXTENDED.replace("# Ours.\n", "{% include 'parts/head' %}\n")
    assert build(template).exit_code == 0
    assert text().startswith("# By from spec.yaml")
    Path("templates/parts/head").write_text("# Of late\n")
    assert build(template, "--check").exit_code == 1, "what a template includes counts as well"
    assert build(template).exit_code == 0
    assert text().startswith("# Of late")
    # Without the option it is another repository again.
    assert CliRunner().invoke(app, ["build-repo", "spec.yaml", "--check"]).exit_code == 1


def test_another_template_says_the_same() -> None:
    template = (
        "{% for field in fields %}{% if field.kind == 'scalar' %}{{ field.name }}: {{ field.value }}\n{% endif %}"
        "{% endfor %}dynamic_batching {}\ninput { name: 'input' data_type: TYPE_FP32 dims: [1, 8, 8] }\n"
        "output { name: 'output' data_type: TYPE_FP32 dims: [1, 8, 8] }\ninstance_group { count: 1 }\n"
    )
    assert build(template).exit_code == 0
    assert parse(text()).max_batch_size == 8


@pytest.mark.parametrize(
    ("template", "words"),
    [
        (EXTENDED + "{% block body %}{{ super() }}max_queue_delay: 3{% endblock %}", "is no ModelConfig"),
        (
            EXTENDED + "{% block body %}{{ super() }}metric_tags { key: 'a' value: 'b' }{% endblock %}",
            "in: metric_tags",
        ),
        (EXTENDED + "{% block body %}{% endblock %}", "says something else than the spec in: name, "),
        ("\n{% if %}", "config.pbtxt.j2:2: the template fails"),
        ("{{ missing }}", "the template fails: 'missing' is undefined"),
        ("{% include 'none' %}", "the template fails: there is no template 'none'"),
        ("{{ 1 / 0 }}", "the template fails: ZeroDivisionError: division by zero"),
        ("{{ fields | map(attribute='value') | sum }}", "the template fails: TypeError"),
        ("{% extends 'config.pbtxt.j2' %}", "the template fails"),
    ],
)
def test_templates_that_are_refused(template: str, words: str) -> None:
    result = build(template)
    assert result.exit_code == 2, result.output
    assert words in result.stderr
    assert "Traceback" not in result.output
    assert not Path("model_repository").exists()


def test_a_template_that_is_no_text() -> None:
    Path("templates").mkdir()
    Path("templates/config.pbtxt.j2").write_bytes(b"\xff\xfe")
    result = CliRunner().invoke(app, ["build-repo", "spec.yaml", "--templates", "templates"])
    assert result.exit_code == 2
    assert "the template fails: UnicodeDecodeError" in result.stderr


def test_a_folder_without_templates_is_refused() -> None:
    Path("empty").mkdir()
    for folder, words in (("empty", "holds none of the templates: config.pbtxt.j2"), ("none", "no such folder")):
        result = CliRunner().invoke(app, ["build-repo", "spec.yaml", "--templates", folder])
        assert result.exit_code == 2, result.output
        assert words in result.stderr
