"""``tritonkit check``: findings at their lines, in three formats, with the right exit code."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from onnx_models import identity
from typer.testing import CliRunner

import tritonkit
from tritonkit.cli.app import app
from tritonkit.repository.inspection import BUNDLED

SPEC = """\
version: 1
models:
  read_image:
    backend: python
    source: src
    input: {IMAGE: "STRING[1]"}
    output:
      PIXELS: "FP32[1,8,0]"
    instance_group:
      - kind: KIND_GPU
        gpus: [1]
  digits:
    source: digits.onnx
    max_batch_size: 4
    input: {input: "FP16[1,8,8]"}
    dynamic_batching:
      preferred_batch_size: [2, 9]
  classify:
    max_batch_size: 8
    ensemble:
      - {model: digits, input: {input: IMAGE}, output: {output: SCORES}}
    input: {IMAGE: "FP16[1,8,8]"}
    output: {SCORES: "FP32[1,8,8]"}
"""
DIGITS = """\
backend: "onnxruntime"
max_batch_size: 4
input [
  {
    name: "input"
    data_type: TYPE_FP16
    dims: [1, 8, 8]
  }
]
"""
OTHER = """\
backend: "python"
output {
  name: "y"
  data_type: TYPE_FP32
  dims: 0
}
"""
SOUND = """\
version: 1
models:
  digits: {source: digits.onnx, max_batch_size: 4}
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "model.py").write_text("class TritonPythonModel: ...\n")
    identity(tmp_path / "digits.onnx")
    (tmp_path / "spec.yaml").write_text(SPEC)
    (tmp_path / "sound.yaml").write_text(SOUND)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*arguments: str) -> tuple[int, str, str]:
    done = CliRunner().invoke(app, ["check", *arguments])
    return done.exit_code, done.stdout, done.stderr


def findings(*arguments: str) -> list[dict[str, Any]]:
    _, out, _ = run(*arguments, "--format", "json")
    return list(json.loads(out)["findings"])


def test_every_finding_has_its_line_and_its_code(project: Path) -> None:
    assert {(each["line"], each["code"], each["severity"]) for each in findings("spec.yaml")} == {
        (8, "IO004", "error"),
        (11, "INS04", "warning"),
        (15, "ART03", "error"),
        (17, "DYN02", "error"),
        (19, "PIP04", "error"),
        (21, "PIP11", "error"),
    }


def test_a_finding_says_what_triton_would_say_and_what_to_write(project: Path) -> None:
    (found,) = [each for each in findings("spec.yaml") if each["code"] == "IO004"]
    assert found == {
        "file": "spec.yaml",
        "line": 8,
        "path": "models.read_image.output.PIXELS.dims[2]",
        "code": "IO004",
        "severity": "error",
        "message": "the output 'PIXELS' has the dimension 0",
        "triton": "model output 'PIXELS' dimension must be integer >= 1, or -1 to indicate a variable-size dimension "
        "for read_image",
        "instead": "a size of 1 or more, or -1 for a dimension that varies",
    }


def test_text(project: Path) -> None:
    code, out, err = run("spec.yaml")
    assert code == 2
    assert "spec.yaml:17: error DYN02 models.digits.dynamic_batching.preferred_batch_size[1]: " in out
    assert "    Triton: dynamic batching preferred size must be <= max batch size for digits\n" in out
    assert "    write: sizes from 1 to max_batch_size, or a greater max_batch_size\n" in out
    assert err == "3 models checked: 5 errors, 1 warning\n"


def test_github_annotates_lines(project: Path) -> None:
    code, out, _ = run("spec.yaml", "--format", "github")
    assert code == 2
    lines = out.splitlines()
    assert len(lines) == 6
    assert all(
        re.match(r"::(error|warning|notice) file=spec\.yaml,line=\d+,title=[A-Z]+\d+::\S", line) for line in lines
    )
    assert "%0ATriton: dynamic batching preferred size" in out


def test_a_sound_spec_is_no_error(project: Path) -> None:
    code, out, err = run("sound.yaml")
    assert (code, out, err) == (0, "", "1 model checked: nothing to object to\n")
    assert json.loads(run("sound.yaml", "--format", "json")[1]) == {
        "models": 1,
        "refused": False,
        "counts": {"error": 0, "warning": 0, "info": 0},
        "findings": [],
    }


def test_warnings_alone_are_no_refusal(project: Path) -> None:
    code, out, err = run(
        "sound.yaml", "--set", "models.digits.max_batch_size=0", "--set", "models.digits.dynamic_batching={}"
    )
    assert code == 0
    assert "warning DYN07" in out
    assert err == "1 model checked: 1 warning\n"


def test_overlays_and_assignments_are_checked(project: Path) -> None:
    (project / "laptop.yaml").write_text("models:\n  digits:\n    max_batch_size: -3\n")
    (found,) = findings("sound.yaml", "laptop.yaml")
    assert (found["file"], found["line"], found["code"]) == ("laptop.yaml", 3, "ID006")
    assert run("sound.yaml", "--set", "models.digits.max_batch_size=-3")[0] == 2


@pytest.mark.parametrize(
    ("options", "codes"),
    [
        ((), {"INS04": "warning"}),
        (("--gpus", "1"), {"INS03": "error"}),
        (("--gpus", "2"), {}),
        (("--gpus", "0"), {"INS03": "error"}),
    ],
)
def test_gpus_are_counted_over_those_that_the_server_sees(
    project: Path, options: tuple[str, ...], codes: dict[str, str]
) -> None:
    found = {each["code"]: each["severity"] for each in findings("spec.yaml", *options)}
    assert {code: severity for code, severity in found.items() if code.startswith("INS")} == codes


def test_the_server_is_taken_into_account(project: Path) -> None:
    newer = "models.digits.model_metrics={}"
    assert [each["severity"] for each in findings("sound.yaml", "--set", newer)] == ["warning"]
    assert [each["severity"] for each in findings("sound.yaml", "--set", newer, "--release", "24.10")] == ["error"]
    assert findings("sound.yaml", "--set", newer, "--release", "25.02") == []
    assert [each["code"] for each in findings("sound.yaml", "--set", newer, "--server", "bundled")] == ["ID010"]
    assert run("sound.yaml", "--release", "new")[0] == 2


def test_the_bundled_server_has_the_backends_that_are_here() -> None:
    own = {file.parent.name for file in (Path(tritonkit.__file__).parent / "backends").glob("*/model.py")}
    assert BUNDLED.backends == frozenset({*own, "python"})


def test_assignments_are_for_specs(project: Path) -> None:
    code, _, err = run("src", "--set", "models.digits.max_batch_size=1")
    assert code == 2
    assert "--set" in err


def test_what_cannot_be_read_is_told_with_the_rest(project: Path) -> None:
    (project / "spec.yaml").write_text(SPEC.replace("digits.onnx", "missing.onnx").replace("kind:", "knd:"))
    found = {(each["line"], each["code"]) for each in findings("spec.yaml")}
    assert {(10, "SPEC"), (13, "SPEC"), (8, "IO004"), (17, "DYN02")} <= found


@pytest.mark.parametrize("form", ["json", "github"])
def test_a_file_that_is_no_yaml_keeps_the_format(project: Path, form: str) -> None:
    (project / "broken.yaml").write_text("version: 1\nmodels: [\n")
    code, out, _ = run("broken.yaml", "--format", form)
    assert code == 2
    assert "SPEC" in out
    if form == "json":
        assert json.loads(out)["refused"]


def test_a_repository_with_and_without_artifacts(project: Path) -> None:
    repository = project / "repository"
    for name, said in {
        "digits": DIGITS,
        "other": OTHER,
    }.items():
        (repository / name / "1").mkdir(parents=True)
        (repository / name / "config.pbtxt").write_text(said)
    identity(repository / "digits" / "1" / "model.onnx")
    found = {(Path(each["file"]).parent.name, each["line"], each["code"]) for each in findings("repository")}
    assert found == {("digits", 6, "ART03"), ("other", 5, "IO004"), ("other", 1, "ID013")}
    assert run("repository")[0] == 2
    found = {
        (Path(each["file"]).parent.name, each["line"], each["code"])
        for each in findings("repository", "--no-artifacts")
    }
    assert found == {("other", 5, "IO004")}


def test_a_spec_without_its_artifacts(project: Path) -> None:
    (project / "digits.onnx").unlink()
    (project / "src" / "model.py").unlink()
    (project / "src").rmdir()
    assert {"SPEC"} < {each["code"] for each in findings("spec.yaml")}
    assert {each["code"] for each in findings("spec.yaml", "--no-artifacts")} == {
        "IO004",
        "INS04",
        "DYN02",
        "PIP04",
        "PIP11",
    }
    assert run("sound.yaml", "--no-artifacts")[0] == 0


def test_a_repository_with_a_broken_configuration(project: Path) -> None:
    (project / "repository" / "m" / "1").mkdir(parents=True)
    (project / "repository" / "m" / "config.pbtxt").write_text('backend: "python"\nmax_batch_sise: 4\n')
    (found,) = findings("repository")
    assert (found["line"], found["code"], found["severity"]) == (2, "SPEC", "error")


def test_build_repo_refuses_all_of_it_and_builds_anyway_if_told_so(project: Path) -> None:
    done = CliRunner().invoke(app, ["build-repo", "spec.yaml"])
    assert done.exit_code == 2
    for code in ("IO004", "ART03", "DYN02", "PIP04"):
        assert f"({code})" in done.stderr
    assert "INS04" not in done.stderr
    assert not (project / "model_repository").exists()
    done = CliRunner().invoke(app, ["build-repo", "spec.yaml", "--no-check"])
    assert done.exit_code == 0, done.stderr
    assert run("model_repository")[0] == 2


def test_a_variant_is_checked_too(project: Path) -> None:
    (project / "sound.yaml").write_text(f"{SOUND.rstrip()[:-1]}, configs: {{big: {{max_batch_size: -5}}}}}}\n")
    (found,) = findings("sound.yaml")
    assert (found["code"], found["path"]) == ("ID006", "models.digits.configs.big.max_batch_size")


def test_checking_imports_no_renderer(project: Path) -> None:
    code = (
        "import sys; sys.argv = ['tritonkit', 'check', 'sound.yaml']\n"
        "from tritonkit.cli import main\n"
        "try: main()\n"
        "except SystemExit as end: assert not end.code, end.code\n"
        "print(sorted({'numpy', 'grpc', 'onnx', 'tritonclient.grpc'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
