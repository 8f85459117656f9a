"""From an existing repository to a spec and back: nothing lost, nothing made up, nothing mangled."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from google.protobuf import text_format
from hypothesis import given, settings
from hypothesis import strategies as st
from message_values import values
from onnx_models import identity
from typer.testing import CliRunner, Result

from tritonkit.cli.app import app
from tritonkit.modelconfig import protobuf
from tritonkit.modelconfig.text import parse, same
from tritonkit.modelconfig.values import fill
from tritonkit.repository.importing import import_repository
from tritonkit.repository.layout import plan
from tritonkit.spec.faults import Faults
from tritonkit.spec.loading import load

DIGITS = """\
# by hand
name: "digits"
backend: "onnxruntime"
max_batch_size: 8
input [ { name: "input" data_type: TYPE_FP32 dims: [ 1, 8, 8 ] } ]
output [ { name: "output" data_type: TYPE_FP32 dims: [ 1, 8, 8 ] label_filename: "labels.txt" } ]
instance_group [ { count: 2 kind: KIND_CPU }, { count: 1 kind: KIND_CPU name: "more" } ]
version_policy { specific { versions: [ 1, 3 ] } }
model_warmup [ { name: "w" batch_size: 1 inputs { key: "input" value {
  data_type: TYPE_FP32 dims: [ 1, 8, 8 ] input_data_file: "pixels" } } } ]
parameters { key: "home" value { string_value: "$$TRITON_MODEL_DIRECTORY/env" } }
"""

ENSEMBLE = """\
platform: "ensemble"
max_batch_size: 8
input { name: "I" data_type: TYPE_FP32 dims: 1 dims: 8 dims: 8 }
output { name: "O" data_type: TYPE_FP32 dims: 1 dims: 8 dims: 8 }
ensemble_scheduling { step { model_name: "digits" model_version: -1
  input_map { key: "input" value: "I" } output_map { key: "output" value: "O" } } }
"""


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    root = tmp_path / "old"
    write(root / "digits/config.pbtxt", DIGITS)
    for version in ("1", "3", "20"):
        (root / "digits" / version).mkdir()
        identity(root / "digits" / version / "model.onnx", ("batch", 1, 8, int(version) + 8))
    identity(root / "digits/3/model.onnx")
    identity(root / "digits/20/model.onnx")
    write(root / "digits/labels.txt", "a\nb\n")
    write(root / "digits/warmup/pixels", "\0" * 256)
    write(root / "digits/configs/h100.pbtxt", "# for the big ones\nmax_batch_size: 64\n")
    write(root / "digits/README.md", "read me")
    write(root / "digits/3/.hidden/vocabulary", "x")
    write(root / "digits/3/__pycache__/x.pyc", "litter")
    write(root / "both/config.pbtxt", ENSEMBLE)
    (root / "both/1").mkdir()
    write(root / "bare/1/model.onnx", (root / "digits/3/model.onnx").read_bytes())
    write(root / "README.md", "read me")
    write(root / "docs/notes.txt", "no model")
    return root


def write(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def tritonkit(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def contents(root: Path) -> dict[str, bytes]:
    files = {file.relative_to(root).as_posix(): file.read_bytes() for file in root.rglob("*") if file.is_file()}
    return {path: held for path, held in files.items() if not path.endswith(("config.pbtxt", ".gitkeep", ".json"))}


def config(path: Path) -> Any:
    return parse(path.read_text()) if path.exists() else protobuf.empty()


def test_a_repository_comes_back_whole(repository: Path) -> None:
    before = contents(repository)
    result = tritonkit("import", "old", "--output", "spec.yaml")
    assert result.exit_code == 0, result.output
    assert "left out: README.md (no folder)" in result.stderr
    assert "left out: docs (neither a config.pbtxt nor a version's folder)" in result.stderr
    built = tritonkit("build-repo", "spec.yaml", "--output", "new")
    assert built.exit_code == 0, built.output
    assert contents(repository) == before
    kept = {
        path: held for path, held in before.items() if not path.startswith(("docs", "README")) and "pyc" not in path
    }
    assert contents(Path("new")) == kept
    for name in ("digits", "both", "bare"):
        assert config(Path("new", name, "config.pbtxt")) == config(repository / name / "config.pbtxt")
        assert {entry.name for entry in (repository / name).iterdir() if entry.name.isdigit()} == {
            entry.name for entry in Path("new", name).iterdir() if entry.name.isdigit()
        }


def test_a_spec_reads_as_its_users_would_write_it(repository: Path) -> None:
    assert tritonkit("import", "old").exit_code == 0
    models = yaml.safe_load(Path("spec.yaml").read_text())["models"]
    assert models["digits"] == {
        "backend": "onnxruntime",
        "versions": {1: "old/digits/1", 3: "old/digits/3", 20: "old/digits/20"},
        "max_batch_size": 8,
        "input": {"input": "FP32[1,8,8]"},
        "output": {
            "output": {"data_type": "TYPE_FP32", "dims": [1, 8, 8], "label_filename": "old/digits/labels.txt"}
        },
        "version_policy": {"specific": {"versions": [1, 3]}},
        "instance_group": [{"kind": "KIND_CPU", "count": 2}, {"name": "more", "kind": "KIND_CPU", "count": 1}],
        "model_warmup": [
            {
                "name": "w",
                "batch_size": 1,
                "inputs": {
                    "input": {
                        "data_type": "TYPE_FP32", "dims": [1, 8, 8], "input_data_file": "old/digits/warmup/pixels",
                    }
                },
            }
        ],
        # "$" is doubled, as "${...}" is the environment's; Triton's own "$$" therefore is four of them.
        "parameters": {"home": "$$$$TRITON_MODEL_DIRECTORY/env"},
        "files": {"README.md": "old/digits/README.md", "3/.hidden/vocabulary": "old/digits/3/.hidden/vocabulary"},
        "configs": {"h100": "old/digits/configs/h100.pbtxt"},
    }  # fmt: skip
    # What it left to Triton is left so, even its name; without a config.pbtxt nothing at all is filled in.
    assert models["both"] == {
        "name": "",
        "ensemble": [{"model": "digits", "input": {"input": "I"}, "output": {"output": "O"}}],
        "max_batch_size": 8,
        "input": {"I": "FP32[1,8,8]"},
        "output": {"O": "FP32[1,8,8]"},
    }
    assert models["bare"] == {"verbatim": True, "source": "old/bare/1"}


def test_what_is_left_to_triton_is_left_to_triton(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write(Path("old/m/1/model.py"), "")
    write(Path("old/n/1/model.py"), "")
    write(Path("old/m/config.pbtxt"), 'instance_group { kind: KIND_CPU } default_model_filename: "model.py"')
    write(Path("old/n/config.pbtxt"), 'name: "n" backend: "python"')
    assert tritonkit("import", "old").exit_code == 0
    assert yaml.safe_load(Path("spec.yaml").read_text())["models"] == {
        "m": {
            "name": "",
            "backend": "",
            "source": "old/m/1",
            "default_model_filename": "model.py",
            "instance_group": [{"kind": "KIND_CPU", "count": 0}],
        },
        "n": {"backend": "python", "source": "old/n/1", "instance_group": []},
    }


def test_an_ensemble_has_its_short_form(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write(Path("old/both/config.pbtxt"), f'name: "both"\n{ENSEMBLE}')
    write(Path("old/both/1/.gitkeep"), "")
    assert tritonkit("import", "old").exit_code == 0
    both = yaml.safe_load(Path("spec.yaml").read_text())["models"]["both"]
    assert both["ensemble"] == [{"model": "digits", "input": {"input": "I"}, "output": {"output": "O"}}]
    assert "versions" not in both


def test_json_says_the_same(repository: Path) -> None:
    done = json.loads(tritonkit("import", "old", "--json", "--skip", "bare").stdout)
    assert done == {
        "spec": "spec.yaml",
        "models": ["both", "digits"],
        "verbatim": [],
        "left_out": {
            "README.md": "no folder",
            "bare": "left out as asked",
            "docs": "neither a config.pbtxt nor a version's folder",
        },
        "placeholders": {},
    }


def test_a_spec_is_never_written_over(repository: Path) -> None:
    write(Path("spec.yaml"), "mine")
    result = tritonkit("import", "old")
    assert result.exit_code == 1
    assert "spec.yaml: stands in the way" in result.stderr
    assert Path("spec.yaml").read_text() == "mine"


def test_the_default_repository_is_not_built_over_itself(repository: Path) -> None:
    repository.rename("model_repository")
    assert tritonkit("import", "model_repository").exit_code == 0
    assert tritonkit("build-repo", "spec.yaml").exit_code == 0
    assert Path("built_repository/digits/config.pbtxt").is_file()


def test_templates_are_reported_with_every_placeholder(repository: Path) -> None:
    write(
        repository / "digits/config.pbtxt",
        '# ${no} placeholder\nname: "digits"\nmax_batch_size: ${batch}\nbackend: "${backend}"\n',
    )
    result = tritonkit("import", "old")
    assert result.exit_code == 2
    assert "digits/config.pbtxt:3: a template: ${batch} is not filled in" in result.stderr
    assert "digits/config.pbtxt:4: a template: ${backend} is not filled in" in result.stderr
    assert "${no}" not in result.stderr
    assert "--skip" in result.stderr
    assert not Path("spec.yaml").exists()
    assert tritonkit("import", "old", "--skip", "digits").exit_code == 0


def test_placeholders_within_strings_are_kept(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("engine_dir", "/nowhere")
    said = 'name: "digits" parameters { key: "dir" value { string_value: "${engine_dir}/$x" } }'
    write(repository / "digits/config.pbtxt", said)
    result = tritonkit("import", "old")
    assert "digits: ${engine_dir} looks like a template that was not filled in; kept as it is" in result.stderr
    assert tritonkit("build-repo", "spec.yaml", "-o", "new", "--no-check").exit_code == 0
    assert config(Path("new/digits/config.pbtxt")) == parse(said)


BAD = {
    "text": (b"backend: 3", "digits/config.pbtxt:1: is no ModelConfig"),
    "field": (b'\n\nname: "digits"\nbackened: "x"', "digits/config.pbtxt:4: is no ModelConfig"),
    "bytes": (b"\xff\xfe", "digits/config.pbtxt: not UTF-8 text (byte 0)"),
    "string": (b'name: "\\377"', "digits/config.pbtxt:1: is no ModelConfig"),
    "brace": (b"input {" * 5000, "digits/config.pbtxt:1: is no ModelConfig"),
}


@pytest.mark.parametrize("case", BAD)
def test_configurations_that_cannot_be_read(repository: Path, case: str) -> None:
    content, words = BAD[case]
    write(repository / "digits/config.pbtxt", content)
    result = tritonkit("import", "old")
    assert result.exit_code == 2
    assert words in result.stderr
    assert not Path("spec.yaml").exists()


def _too_large(root: Path) -> None:
    with (root / "digits/config.pbtxt").open("wb") as stream:
        stream.truncate(50_000_000)


def _folder_for_file(root: Path) -> None:
    (root / "digits/config.pbtxt").unlink()
    (root / "digits/config.pbtxt").mkdir()


def _no_text(root: Path) -> None:
    (Path(os.fsdecode(os.fsencode(root / "digits") + b"/1/\xff"))).touch()


def _pipe(root: Path) -> None:
    os.mkfifo(root / "digits/1/pipe")


def _no_models(root: Path) -> None:
    for name in ("digits", "both", "bare"):
        shutil.rmtree(root / name)


WORSE: dict[str, tuple[Callable[[Path], object], str]] = {
    "large": (_too_large, "no file of at most"),
    "folder": (_folder_for_file, "no file of at most"),
    "loop": (lambda root: (root / "digits/1/up").symlink_to(root / "digits"), "leads back to the folder"),
    "dangling": (lambda root: (root / "digits/1/x").symlink_to("none"), "neither a file nor a folder"),
    "pipe": (_pipe, "neither a file nor a folder"),
    "name": (lambda root: (root / "digits").rename(root / "my digits"), "a model's name has letters"),
    "file name": (_no_text, "is not UTF-8 text"),
    "gone": (shutil.rmtree, "no such folder"),
    "model": (lambda root: write(root / "config.pbtxt", ""), "is a model's folder"),
    "empty": (_no_models, "holds no model"),
}


@pytest.mark.parametrize("case", WORSE)
def test_repositories_that_cannot_be_taken_in(repository: Path, case: str) -> None:
    spoil, words = WORSE[case]
    spoil(repository)
    result = tritonkit("import", "old")
    assert result.exit_code == 2, result.output
    assert words in result.stderr
    assert "Traceback" not in result.output
    assert not Path("spec.yaml").exists()


def test_a_spec_does_not_lie_in_its_repository(repository: Path) -> None:
    result = tritonkit("import", "old", "--output", "old/spec.yaml")
    assert result.exit_code == 2
    assert "lies inside old, which it describes" in result.stderr


PATHS = (
    "1/model.py", "1/model.onnx", "1/.hidden", "2/a/b", "2/.gitkeep", "0/x", "01/x", "1x/y", "labels.txt",
    "l/labels.txt", "warmup/w", "warmup/deep/w", "initial_state/s", "configs/a.pbtxt", "configs/b c.pbtxt",
    "configs/d/e.pbtxt",
    "tokenizer/x", "tokenizer/.y", "tokenizer/z.pyc", "$x", "${y}", "é\u2028", "- a: b", "5/.gitkeep",
)  # fmt: skip


@settings(max_examples=150)
@given(
    said=values(protobuf.empty().DESCRIPTOR),
    paths=st.sets(st.sampled_from(PATHS), max_size=6),
    folders=st.sets(st.sampled_from(["1", "2", "7"])),
    name=st.sampled_from(["", "m", "other"]),
    names=st.sampled_from(["labels.txt", "l/labels.txt", "w", "../m/labels.txt", "spec.yaml", "/etc/passwd", "$x"]),
)
def test_whatever_a_repository_says_survives(
    said: dict[str, Any], paths: set[str], folders: set[str], name: str, names: str
) -> None:
    message = protobuf.empty()
    fill(message, said, (), Faults("", {}))
    message.name = name
    for output in message.output:
        output.label_filename = names
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder, "old")
        write(root / "m/config.pbtxt", text_format.MessageToString(message, as_utf8=True))
        for path in paths:
            write(root / "m" / path, f"it is {path}")
        for version in folders:
            (root / "m" / version).mkdir(exist_ok=True)
        spec = Path(folder, "spec.yaml")
        import_repository(root, spec)
        files = {file.path: file for file in plan(load([spec], [], {}), check=False).files}
        built = files.pop("m/config.pbtxt").content
        assert built is not None
        assert same(parse(built.decode()), message)
        assert {f"m/{path}" for path in paths} <= files.keys()
        for path, file in files.items():
            origin = root / path
            if file.source is not None:
                assert file.source.read_bytes() == origin.read_bytes()
            else:
                assert path.endswith(".gitkeep")
                assert origin.parent.is_dir()


def test_a_missing_file_is_not_found_in_the_spec_itself(tmp_path: Path) -> None:
    from tritonkit.repository.importing import import_repository
    from tritonkit.repository.layout import plan
    from tritonkit.spec.loading import load

    (tmp_path / "old/m/1").mkdir(parents=True)
    (tmp_path / "old/m/config.pbtxt").write_text('output { label_filename: "spec.yaml" }')
    import_repository(tmp_path / "old", tmp_path / "spec.yaml")
    paths = [file.path for file in plan(load([tmp_path / "spec.yaml"], [], {}), check=False).files]
    assert paths == ["m/1/.gitkeep", "m/config.pbtxt"]
