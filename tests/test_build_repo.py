"""Building a repository: what is written, what is left alone, what is refused, and at what price."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from onnx_models import identity
from typer.testing import CliRunner, Result

from tritonkit.cli.app import app
from tritonkit.errors import RepositoryConflict
from tritonkit.modelconfig.text import parse
from tritonkit.repository import build, changes
from tritonkit.repository.placement import RepositoryFile
from tritonkit.repository.samples import samples
from tritonkit.tools import digests

SPEC = """\
version: 1
models:
  digits:
    {source: models/digits.onnx, max_batch_size: 8, dynamic_batching: {}, output: {output: {label_filename: l.txt}}}
  reader: {source: src, max_batch_size: 8, input: {X: "STRING[1]"}, output: {Y: "FP32[1,8,8]"}}
  both:
    max_batch_size: 8
    ensemble:
      - {model: reader, input: {X: X}, output: {Y: pixels}}
      - {model: digits, input: {input: pixels}, output: {output: Z}}
    input: {X: "STRING[1]"}
    output: {Z: "FP32[1,8,8]"}
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "models").mkdir()
    (tmp_path / "src/data/__pycache__").mkdir(parents=True)
    identity(tmp_path / "models/digits.onnx")
    (tmp_path / "src/model.py").write_text("class TritonPythonModel: ...\n")
    (tmp_path / "src/data/table.csv").write_text("1,2\n")
    (tmp_path / "src/data/__pycache__/x.pyc").write_text("clutter")
    (tmp_path / "src/.hidden").write_text("clutter")
    (tmp_path / "l.txt").write_text("a\nb\n")
    (tmp_path / "spec.yaml").write_text(SPEC)
    return tmp_path


def tritonkit(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def snapshot(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Every file below a folder, with its inode and content: a file written anew has another inode."""
    return {
        file.relative_to(folder).as_posix(): (file.stat().st_ino, file.read_bytes())
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }


def test_a_repository_is_built(project: Path) -> None:
    result = tritonkit("build-repo", project / "spec.yaml")
    assert result.exit_code == 0, result.output
    repository = project / "model_repository"
    assert set(snapshot(repository)) == {
        ".tritonkit.json",
        "both/1/.gitkeep",
        "both/config.pbtxt",
        "digits/1/model.onnx",
        "digits/config.pbtxt",
        "digits/l.txt",
        "reader/1/data/table.csv",
        "reader/1/model.py",
        "reader/config.pbtxt",
    }
    config = parse((repository / "digits/config.pbtxt").read_text())
    assert config.backend == "onnxruntime"
    assert list(config.input[0].dims) == [1, 8, 8]
    assert config.output[0].label_filename == "l.txt"
    assert not list(project.glob(".*staging*"))


def test_an_unchanged_build_writes_nothing(project: Path) -> None:
    tritonkit("build-repo", project / "spec.yaml")
    before = snapshot(project)
    for _ in range(2):
        result = tritonkit("build-repo", project / "spec.yaml", "--json")
        assert json.loads(result.stdout)["counts"] == {"unchanged": 8}
        assert snapshot(project) == before


def test_check_dry_run_and_diff_write_nothing(project: Path) -> None:
    before = snapshot(project)
    for option, code in (("--check", 1), ("--dry-run", 0), ("--diff", 0)):
        result = tritonkit("build-repo", project / "spec.yaml", option)
        assert result.exit_code == code
        assert "digits/config.pbtxt" in result.stdout
        assert snapshot(project) == before
    assert "+max_batch_size: 8" in tritonkit("build-repo", project / "spec.yaml", "--diff").stdout
    tritonkit("build-repo", project / "spec.yaml")
    assert tritonkit("build-repo", project / "spec.yaml", "--check").exit_code == 0


@pytest.mark.parametrize(
    "touched", ["spec.yaml", "models/digits.onnx", "src/model.py", "src/data/table.csv", "src/new.py", "l.txt"]
)
def test_every_input_counts(project: Path, touched: str) -> None:
    tritonkit("build-repo", project / "spec.yaml")
    if touched.endswith(".onnx"):
        identity(project / touched, ("batch", 1, 9, 9))
        (project / "spec.yaml").write_text(SPEC.replace("8,8", "9,9"))
    else:
        with (project / touched).open("a") as stream:
            stream.write("# more\n")
    checked = tritonkit("build-repo", project / "spec.yaml", "--check").exit_code
    written = json.loads(tritonkit("build-repo", project / "spec.yaml", "--json").stdout)["counts"]
    # A comment in the spec is another input and the same repository.
    assert checked == (0 if touched == "spec.yaml" else 1)
    assert (written["created"] + written["updated"] > 0) is (touched != "spec.yaml")
    assert json.loads(tritonkit("build-repo", project / "spec.yaml", "--json").stdout)["counts"] == {
        "unchanged": sum(written[kind] for kind in ("created", "updated", "unchanged"))
    }


def test_variables_and_assignments_count(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = project / "spec.yaml"
    spec.write_text(SPEC.replace("source: src", 'source: "${SRC:-src}"'))
    tritonkit("build-repo", spec)
    shutil.copytree(project / "src", project / "other")
    (project / "other/model.py").write_text("# another\n")
    monkeypatch.setenv("SRC", "other")
    assert "reader/1/model.py" in tritonkit("build-repo", spec).stdout
    assert "digits/config.pbtxt" in tritonkit("build-repo", spec, "--set", "models.digits.max_batch_size=64").stdout


def test_what_the_spec_drops_is_removed(project: Path) -> None:
    tritonkit("build-repo", project / "spec.yaml")
    (project / "model_repository/reader/1/mine.txt").write_text("the user's own")
    (project / "spec.yaml").write_text("\n".join(SPEC.splitlines()[:4]))
    result = tritonkit("build-repo", project / "spec.yaml")
    assert result.exit_code == 0, result.output
    assert set(snapshot(project / "model_repository")) == {
        ".tritonkit.json",
        "digits/1/model.onnx",
        "digits/config.pbtxt",
        "digits/l.txt",
        "reader/1/mine.txt",
    }
    assert not (project / "model_repository/both").exists()


def test_what_python_kept_of_a_dropped_model_goes_with_it(project: Path) -> None:
    assert tritonkit("build-repo", project / "spec.yaml").exit_code == 0
    version = project / "model_repository/reader/1"
    cache = version / "__pycache__"
    cache.mkdir()
    (cache / "model.cpython-310.pyc").write_bytes(b"kept by the server")
    (project / "spec.yaml").write_text(SPEC[: SPEC.index("  reader:")])
    assert tritonkit("build-repo", project / "spec.yaml").exit_code == 0
    assert sorted(path.name for path in (project / "model_repository").iterdir() if path.is_dir()) == ["digits"]
    (project / "spec.yaml").write_text(SPEC)
    assert tritonkit("build-repo", project / "spec.yaml").exit_code == 0
    cache.mkdir()
    (cache / "model.cpython-310.pyc").write_bytes(b"kept by the server")
    (cache / "notes.txt").write_text("somebody's own")
    (project / "spec.yaml").write_text(SPEC[: SPEC.index("  reader:")])
    assert tritonkit("build-repo", project / "spec.yaml").exit_code == 0
    assert [path.name for path in cache.iterdir()] == ["notes.txt"]


def test_foreign_files_are_never_touched(project: Path) -> None:
    foreign = project / "model_repository/digits/config.pbtxt"
    foreign.parent.mkdir(parents=True)
    foreign.write_text("name: 'mine'")
    before = snapshot(project)
    for options in ((), ("--force",)):
        result = tritonkit("build-repo", project / "spec.yaml", *options)
        assert result.exit_code == 1
        assert "digits/config.pbtxt: stands in the way, and was not written by tritonkit" in result.stderr
        assert snapshot(project) == before


def test_strangers_that_triton_would_serve_are_told(project: Path) -> None:
    spec, repository = project / "spec.yaml", project / "model_repository"
    tritonkit("build-repo", spec)
    (repository / "digits/notes.txt").write_text("harmless")
    (repository / ".git").mkdir()
    result = tritonkit("build-repo", spec, "--check")
    assert result.exit_code == 0
    assert "digits/notes.txt" in result.stdout
    assert ".git" not in result.stdout
    for folder in ("digits/2", "digits/3_old", "other/1", "reader/1/data/more"):
        (repository / folder).mkdir(parents=True)
    result = tritonkit("build-repo", spec, "--check", "--json")
    assert result.exit_code == 1
    files = json.loads(result.stdout)["files"]
    assert files["not tritonkit's, served"] == ["digits/2/", "digits/3_old/", "other/"]
    assert files["not tritonkit's"] == ["digits/notes.txt", "reader/1/data/more/"]
    assert "Triton would serve this with the rest" in " ".join(result.stderr.split())
    assert tritonkit("build-repo", spec, "--dry-run").exit_code == 0


def test_links_are_never_followed(project: Path) -> None:
    elsewhere = project / "elsewhere"
    elsewhere.mkdir()
    (project / "model_repository").mkdir()
    (project / "model_repository/digits").symlink_to(elsewhere)
    assert tritonkit("build-repo", project / "spec.yaml").exit_code == 1
    assert not list(elsewhere.iterdir())


def test_edited_files_are_replaced_only_by_force(project: Path) -> None:
    tritonkit("build-repo", project / "spec.yaml")
    edited = project / "model_repository/digits/config.pbtxt"
    edited.write_text("# tuned by hand\n")
    refused = tritonkit("build-repo", project / "spec.yaml")
    assert refused.exit_code == 1
    assert "digits/config.pbtxt: was changed since tritonkit wrote it" in refused.stderr
    assert edited.read_text() == "# tuned by hand\n"
    assert tritonkit("build-repo", project / "spec.yaml", "--force").exit_code == 0
    assert parse(edited.read_text()).name == "digits"


def test_a_deleted_file_comes_back(project: Path) -> None:
    tritonkit("build-repo", project / "spec.yaml")
    shutil.rmtree(project / "model_repository/digits")
    assert tritonkit("build-repo", project / "spec.yaml").exit_code == 0
    assert (project / "model_repository/digits/1/model.onnx").is_file()


def test_output_elsewhere(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project)
    for _ in range(2):
        assert tritonkit("build-repo", "spec.yaml", "--output", "other").exit_code == 0
    assert (project / "other/digits/config.pbtxt").is_file()
    assert not (project / "model_repository").exists()


def test_adopts_a_repository_whose_record_was_lost(project: Path) -> None:
    tritonkit("build-repo", project / "spec.yaml")
    (project / "model_repository/.tritonkit.json").unlink()
    before = snapshot(project / "model_repository")
    assert tritonkit("build-repo", project / "spec.yaml").exit_code == 0
    after = snapshot(project / "model_repository")
    assert after.pop(".tritonkit.json")
    assert after == before


@pytest.mark.parametrize(
    ("record", "words"),
    [
        ("", "cannot be read: Expecting value"),
        ("{}", "cannot be read: it has no 'format'"),
        ("[]", "cannot be read: list indices"),
        ('{"format": 9, "files": {}, "inputs": null}', "written in format 9 by another version"),
        ('{"format": 1, "files": 3}', "cannot be read: it has no 'inputs'"),
        ("[" * 100_000, "cannot be read: "),
    ],
)
def test_a_broken_record_is_refused(project: Path, record: str, words: str) -> None:
    tritonkit("build-repo", project / "spec.yaml")
    (project / "model_repository/.tritonkit.json").write_text(record)
    result = tritonkit("build-repo", project / "spec.yaml")
    assert result.exit_code == 2
    assert (
        f".tritonkit.json: {'the record of what tritonkit wrote ' if 'cannot' in words else ''}{words}" in result.stderr
    )
    assert "hint: " in result.stderr


def test_a_lost_record_is_named_where_its_files_are_in_the_way(project: Path) -> None:
    tritonkit("build-repo", project / "spec.yaml")
    (project / "model_repository/.tritonkit.json").unlink()
    (project / "spec.yaml").write_text(SPEC.replace("max_batch_size: 8", "max_batch_size: 4"))
    result = tritonkit("build-repo", project / "spec.yaml")
    assert result.exit_code == 1
    assert "digits/config.pbtxt: stands in the way" in result.stderr
    assert "its record .tritonkit.json is missing: restore that" in result.stderr


BAD = {
    "unknown key": (
        "models: {m: {source: m.onnx, dynamic_baching: {}}}",
        "spec.yaml:2: models.m.dynamic_baching: unknown key",
    ),
    "wrong type": (
        "models: {m: {source: m.onnx, max_batch_size: many}}",
        "spec.yaml:2: models.m.max_batch_size: expected",
    ),
    "duplicate key": ("models:\n  m: {source: m.onnx}\n  m: {source: m.onnx}", "spec.yaml:4: models.m: given twice"),
    "missing file": ("models: {m: {source: none.onnx}}", "spec.yaml:2: models.m.source: there is no file or folder"),
    "broken ONNX": ("models: {m: {source: broken.onnx}}", "spec.yaml:2: models.m.source:"),
    "slash": ("models: {a/b: {source: m.onnx}}", 'spec.yaml:2: models["a/b"]: a model\'s name'),
    "dots": ("models: {..: {source: m.onnx}}", 'spec.yaml:2: models[".."]: a model\'s name'),
    "no models": ("models: {}", "spec.yaml:2: models: may not be empty"),
    "not YAML": ("models: [", "not valid YAML"),
    "no source": ("models: {m: {max_batch_size: 1}}", "spec.yaml:2: models.m: has neither a source nor an ensemble"),
    "unknown suffix": ("models: {m: {source: spec.yaml}}", "does not tell its backend"),
    "folder without model.py": ("models: {m: {source: empty, backend: python}}", "holds no model.py"),
    "unknown step": (
        "models: {m: {source: m.onnx}, e: {ensemble: [{model: n, input: {}, output: {}}]}}",
        "spec.yaml:2: models.e.ensemble[0].model: there is no model 'n'",
    ),
    "label file": (
        "models: {m: {source: m.onnx, output: {output: {label_filename: none.txt}}}}",
        "spec.yaml:2: models.m.output.output.label_filename: there is no file",
    ),
    "sample": (
        "models: {m: {source: m.onnx, samples: {inptu: [1]}}}",
        "models.m.samples.inptu: the model has no input",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_specs_end_with_exit_code_2_and_change_nothing(tmp_path: Path, case: str) -> None:
    text, expected = BAD[case]
    identity(tmp_path / "m.onnx")
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken.onnx").write_bytes((tmp_path / "m.onnx").read_bytes()[:40])
    (tmp_path / "spec.yaml").write_text("version: 1\nmodels: {m: {source: m.onnx}}")
    assert tritonkit("build-repo", tmp_path / "spec.yaml").exit_code == 0
    (tmp_path / "spec.yaml").write_text(f"version: 1\n{text}\n")
    before = snapshot(tmp_path)
    result = tritonkit("build-repo", tmp_path / "spec.yaml")
    assert result.exit_code == 2
    assert expected in result.stderr
    assert "Traceback" not in result.output
    assert snapshot(tmp_path) == before


def test_bad_files_end_with_exit_code_2(tmp_path: Path) -> None:
    large = tmp_path / "large.yaml"
    with large.open("wb") as stream:
        stream.truncate(50_000_000)
    (tmp_path / "nothing.yaml").touch()
    for path in (large, tmp_path, tmp_path / "nothing.yaml", tmp_path / "none.yaml"):
        result = tritonkit("build-repo", path)
        assert result.exit_code == 2
        assert str(path) in result.stderr


def test_faults_of_all_kinds_are_reported_together(tmp_path: Path) -> None:
    (tmp_path / "spec.yaml").write_text(
        "version: 3\nmodels:\n  a: {source: none.onnx}\n  b: {source: 3}\n  c: {ensemble: [], x: 1}\n  a/b: {}\n"
    )
    lines = [
        line for line in tritonkit("build-repo", tmp_path / "spec.yaml").stderr.splitlines() if "spec.yaml" in line
    ]
    assert [line.split("spec.yaml:")[1].split(": ")[:2] for line in lines] == [
        ["1", "version"],
        ["3", "models.a.source"],
        ["4", "models.b.source"],
        ["5", "models.c.ensemble"],
        ["5", "models.c.x"],
        ["6", 'models["a/b"]'],
    ]


def test_a_disk_that_refuses(project: Path) -> None:
    if os.geteuid() == 0:
        # Permissions do not bind root; a file where the folder should be refuses everybody.
        (project / "model_repository").write_text("in the way")
    else:
        project.chmod(0o555)
    result = tritonkit("build-repo", project / "spec.yaml")
    assert result.exit_code == 1
    assert "model_repository" in result.stderr
    assert "Traceback" not in result.output


def test_a_disk_that_is_full(project: Path) -> None:
    """A real one of 64 kB, in a mount namespace of its own."""
    (project / "src/data/weights.bin").write_bytes(bytes(200_000))
    disk = project / "disk"
    disk.mkdir()
    mounted = 'mount -t tmpfs -o size=64k none disk && "$@"; code=$?; find disk -type f; exit $code'
    namespace = ["unshare", "--map-root-user", "--mount", "sh", "-c", mounted, "sh"]
    program = [str(Path(sys.executable).with_name("tritonkit")), "build-repo", "spec.yaml", "-o", "disk/repository"]
    done = subprocess.run([*namespace, *program], cwd=project, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 1, done.stderr
    assert done.stderr == "error: disk/repository/reader/1/data/weights.bin: No space left on device\n"
    assert done.stdout == "", "nothing is left on the disk"


@pytest.mark.parametrize(
    "path",
    ["../../victim.txt", "{victim}", "a/../../../victim.txt", "", ".", "a//b", "a\\b", "a\0b", ".tritonkit.json"],
)
@pytest.mark.parametrize("key", ["files", "replaced"])
def test_a_record_that_leads_outside_is_refused(project: Path, path: str, key: str) -> None:
    spec = project / "spec.yaml"
    victim = project / "precious/victim.txt"
    victim.parent.mkdir()
    victim.write_text("precious")
    path = path.replace("{victim}", str(victim)).replace("../../victim", "../precious/victim")
    tritonkit("build-repo", spec)
    record = project / "model_repository/.tritonkit.json"
    stored = json.loads(record.read_text())
    stored.setdefault(key, {})[path] = digests.of_bytes(b"precious")
    record.write_text(json.dumps({**stored, "inputs": None}))
    before = snapshot(project)
    for options in ((), ("--force",), ("--check",)):
        result = tritonkit("build-repo", spec, *options)
        assert result.exit_code == 2
        assert f"{record}: the record of what tritonkit wrote cannot be read: " in result.stderr
        assert "is no path of a file in the repository" in result.stderr
        assert snapshot(project) == before


def test_no_file_is_planned_outside() -> None:
    for path in ("../x", "/x", "a/../b", "a\\b", "", "a/"):
        with pytest.raises(ValueError, match="planned outside the repository"):
            RepositoryFile(path, content=b"")


def test_force_never_reaches_through_a_link(project: Path) -> None:
    """What stands behind a link is somebody else's, though the record has its path."""
    spec, repository = project / "spec.yaml", project / "model_repository"
    tritonkit("build-repo", spec)
    (repository / "digits").rename(project / "elsewhere")
    (repository / "digits").symlink_to(project / "elsewhere")
    (project / "elsewhere/config.pbtxt").write_text("mine")
    before = snapshot(project)
    result = tritonkit("build-repo", spec, "--force")
    assert result.exit_code == 1
    assert "digits/config.pbtxt: stands in the way" in result.stderr
    assert snapshot(project) == before
    spec.write_text("version: 1\nmodels: {reader: {source: src, backend: python}}\n")
    assert tritonkit("build-repo", spec, "--force").exit_code == 0
    assert (project / "elsewhere/1/model.onnx").is_file()
    assert (repository / "digits").is_symlink()


def test_a_comparison_counts_only_while_it_is_true(project: Path) -> None:
    spec, repository = project / "spec.yaml", project / "model_repository"
    first = build.compare([spec], [], {})
    second = build.compare([spec], ["models.digits.max_batch_size=16"], {})
    changes.apply(first)
    before = snapshot(project)
    with pytest.raises(RepositoryConflict, match="was changed since this build looked"):
        changes.apply(second, force=True)
    assert snapshot(project) == before
    # The same build, done by another in the meantime, is done.
    changes.apply(first)
    assert snapshot(project) == before
    assert parse((repository / "digits/config.pbtxt").read_text()).max_batch_size == 8


@pytest.mark.parametrize("path", ["digits/config.pbtxt", "reader/1", "both", "digits/1/model.onnx"])
def test_a_foreign_file_that_came_late_is_not_overwritten(project: Path, path: str) -> None:
    planned = build.compare([project / "spec.yaml"], [], {})
    late = project / "model_repository" / path
    late.parent.mkdir(parents=True)
    late.write_text("mine")
    with pytest.raises(RepositoryConflict, match="was changed since this build looked"):
        changes.apply(planned, force=True)
    assert list(snapshot(project / "model_repository")) == [path]
    assert late.read_text() == "mine"


@pytest.mark.parametrize("path", ["reader/1/data/table.csv", "reader/1/model.py"])
def test_an_edit_that_came_late_is_not_overwritten(project: Path, path: str) -> None:
    spec = project / "spec.yaml"
    tritonkit("build-repo", spec)
    (project / "src/model.py").write_text("# new\n")
    (project / "src/data/table.csv").unlink()
    planned = build.compare([spec], [], {})
    edited = project / "model_repository" / path
    edited.write_text("tuned")
    before = snapshot(project)
    with pytest.raises(RepositoryConflict, match="was changed since this build looked"):
        changes.apply(planned)
    assert snapshot(project) == before


def test_a_source_that_changes_while_it_is_built_is_not_recorded(project: Path) -> None:
    spec = project / "spec.yaml"
    planned = build.compare([spec], [], {})
    (project / "src/model.py").write_text("# half of the new one")
    with pytest.raises(RepositoryConflict, match=r"src/model\.py: was changed while it was being copied"):
        changes.apply(planned)
    assert not snapshot(project / "model_repository")
    assert not list(project.glob(".*staging*"))
    assert tritonkit("build-repo", spec).exit_code == 0
    assert tritonkit("build-repo", spec, "--check").exit_code == 0


@pytest.mark.parametrize(
    "text",
    [
        SPEC + "repository: ${REPO:-other}\n",
        SPEC + "<<: {repository: other}\n",
        SPEC.replace("source: src,", "source: src, samples: {X: &name other},") + "repository: *name\n",
        SPEC.replace("source: src,", "source: src, samples: {X: &name other},") + "? repository\n: *name\n",
    ],
)
def test_a_repository_that_only_reading_tells_is_read(project: Path, text: str) -> None:
    spec = project / "spec.yaml"
    spec.write_text(text)
    assert tritonkit("build-repo", spec, "--output", project / "model_repository").exit_code == 0
    assert "/other: 8 created" in tritonkit("build-repo", spec).stderr.replace("\n", "")


def test_a_link_with_the_same_content_is_not_unchanged(project: Path) -> None:
    spec = project / "spec.yaml"
    tritonkit("build-repo", spec)
    built = project / "model_repository/digits/config.pbtxt"
    built.rename(project / "elsewhere.pbtxt")
    built.symlink_to(project / "elsewhere.pbtxt")
    result = tritonkit("build-repo", spec)
    assert result.exit_code == 1
    assert "digits/config.pbtxt: was changed since tritonkit wrote it" in result.stderr


def test_a_file_that_becomes_a_folder_and_back(project: Path) -> None:
    spec, table = project / "spec.yaml", project / "src/data/table.csv"
    tritonkit("build-repo", spec)
    for _ in range(2):
        table.unlink()
        (table / "deep").mkdir(parents=True)
        (table / "deep/a").write_text("a")
        (table / "b").write_text("b")
        result = tritonkit("build-repo", spec)
        assert result.exit_code == 0, result.output
        assert (project / "model_repository/reader/1/data/table.csv/deep/a").read_text() == "a"
        shutil.rmtree(table)
        table.write_text("again")
        result = tritonkit("build-repo", spec)
        assert result.exit_code == 0, result.output
        assert (project / "model_repository/reader/1/data/table.csv").read_text() == "again"
    assert tritonkit("build-repo", spec, "--check").exit_code == 0


@pytest.mark.parametrize("held", ["table.csv/mine", "table.csv/deep/mine", "table.csv/empty/"])
def test_a_folder_that_holds_more_gives_no_way(project: Path, held: str) -> None:
    spec, table = project / "spec.yaml", project / "src/data/table.csv"
    table.unlink()
    (table / "deep").mkdir(parents=True)
    (table / "deep/a").write_text("a")
    tritonkit("build-repo", spec)
    foreign = project / "model_repository/reader/1/data" / held
    foreign.mkdir() if held.endswith("/") else foreign.write_text("mine")
    shutil.rmtree(table)
    table.write_text("again")
    before = snapshot(project)
    result = tritonkit("build-repo", spec, "--force")
    assert result.exit_code == 1
    assert "reader/1/data/table.csv: stands in the way, and was not written by tritonkit" in result.stderr
    assert snapshot(project) == before


def test_the_executable_bit_counts(project: Path) -> None:
    spec, built = project / "spec.yaml", project / "model_repository/reader/1/model.py"
    tritonkit("build-repo", spec)
    for mode, runs in ((0o755, True), (0o644, False)):
        (project / "src/model.py").chmod(mode)
        assert tritonkit("build-repo", spec, "--check").exit_code == 1
        assert json.loads(tritonkit("build-repo", spec, "--json").stdout)["files"]["updated"] == ["reader/1/model.py"]
        assert os.access(built, os.X_OK) is runs
        assert tritonkit("build-repo", spec, "--check").exit_code == 0
    (project / "src/model.py").chmod(0o755)
    tritonkit("build-repo", spec)
    # A disk that keeps no such bit is not written to again and again.
    built.chmod(0o644)
    assert tritonkit("build-repo", spec, "--check").exit_code == 0


def test_pipes_in_a_repository_are_in_the_way(project: Path) -> None:
    spec, built = project / "spec.yaml", project / "model_repository/reader/1/model.py"
    tritonkit("build-repo", spec)
    built.unlink()
    os.mkfifo(built)
    result = tritonkit("build-repo", spec, "--force")
    assert result.exit_code == 1
    assert "reader/1/model.py: stands in the way" in result.stderr


def _killed_at(spec: Path, moment: int) -> None:
    """Build in this process, and kill it at the given rename of a staged file or manifest."""
    replace, count = Path.replace, 0

    def counting(source: Path, target: Path) -> Path:
        nonlocal count
        if "digests" not in source.parts:
            if count == moment:
                os.kill(os.getpid(), signal.SIGKILL)
            count += 1
        return replace(source, target)

    Path.replace = counting  # type: ignore[method-assign,assignment]
    changes.apply(build.compare([spec], [], {}))


@pytest.mark.parametrize("moment", range(10))
def test_killed_at_any_moment_the_next_build_completes(project: Path, moment: int) -> None:
    spec = project / "spec.yaml"
    tritonkit("build-repo", spec)
    spec.write_text(SPEC.replace("reader", "decoder").replace("max_batch_size: 8", "max_batch_size: 4"))
    victim = multiprocessing.get_context("fork").Process(target=_killed_at, args=(spec, moment))
    victim.start()
    victim.join(30)
    renames = 7
    assert victim.exitcode == (-signal.SIGKILL if moment < renames else 0)
    for file in (project / "model_repository").glob("*/config.pbtxt"):
        assert parse(file.read_text()).name == file.parent.name
    assert tritonkit("build-repo", spec).exit_code == 0
    assert tritonkit("build-repo", spec, "--check").exit_code == 0
    fresh = project / "fresh"
    tritonkit("build-repo", spec, "--output", fresh)
    built = {path: content for path, (_, content) in snapshot(project / "model_repository").items() if path[0] != "."}
    assert built == {path: content for path, (_, content) in snapshot(fresh).items() if path[0] != "."}
    assert not list(project.glob(".*staging*"))


def test_two_builds_at_once_do_not_mix(project: Path) -> None:
    spec = project / "spec.yaml"
    argv = [sys.executable, "-m", "tritonkit", "build-repo", str(spec)]
    runs = [subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(4)]
    ends = [(run.communicate(timeout=60)[1], run.returncode) for run in runs]
    assert all(code == 0 or "another build is at work" in words for words, code in ends), ends
    assert any(code == 0 for _, code in ends)
    assert tritonkit("build-repo", spec, "--check").exit_code == 0


def test_digests_of_large_files_are_remembered_and_never_stale(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITONKIT_CACHE", str(tmp_path / "cache"))
    large = tmp_path / "large.plan"
    large.write_bytes(b"a" * 2_000_000)
    fresh = digests.of_file(large)
    assert not (tmp_path / "cache").exists(), "a file this young may change again within the clock's granularity"
    clock = large.stat().st_ctime_ns + 10_000_000_000
    monkeypatch.setattr("time.time_ns", lambda: clock)
    assert digests.of_file(large) == fresh
    (memory,) = (tmp_path / "cache/digests").iterdir()
    state, _ = json.loads(memory.read_text())
    memory.write_text(json.dumps([state, "remembered"]))
    assert digests.of_file(large) == "remembered"
    stat = large.stat()
    large.write_bytes(b"b" * 2_000_000)
    os.utime(large, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert digests.of_file(large) == digests.of_bytes(b"b" * 2_000_000)
    memory.write_text("broken")
    assert digests.of_file(large) == digests.of_bytes(b"b" * 2_000_000)


def test_samples_are_found_again_from_the_repository(project: Path) -> None:
    spec, repository = project / "spec.yaml", project / "other/model_repository"
    spec.write_text(SPEC.replace("source: src,", 'source: src, samples: {X: "*.png"},'))
    assignment = "models.digits.samples={input: [[1.5]]}"
    assert tritonkit("build-repo", spec, "--set", assignment, "-o", repository).exit_code == 0
    texts, folder = samples(repository, {})
    assert texts == {"digits": {"input": "[[1.5]]"}, "reader": {"X": "*.png"}}
    assert folder.samefile(project)
    assert samples(project / "elsewhere", {})[0] == {}
    spec.unlink()
    assert samples(repository, {})[0] == {}
