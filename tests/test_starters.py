"""``tritonkit init``: whole copies or none, nothing overwritten, and starters that build as they are."""

from __future__ import annotations

import os
import re
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from onnx_models import identity
from typer.testing import CliRunner, Result

from tritonkit import starters
from tritonkit.cli.app import app
from tritonkit.errors import RepositoryConflict, UsageError

ALL = {starter.name: starter for starter in starters.available()}
DIGITS = {
    ".gitignore", "README.md", "evaluate.py", "held_out.npz", "labels.txt", "models/digits.onnx", "spec.yaml",
    "src/read_image/decoding.py", "src/read_image/model.py", "train.py",
    *(f"samples/{digit}.png" for digit in range(10)),
}  # fmt: skip


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def tritonkit(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()}


def check_copy(name: str, folder: Path) -> None:
    wanted = {path.as_posix() for path in ALL[name].files}
    assert wanted <= files(folder)
    for path in wanted:
        assert (folder / path).read_bytes() == (ALL[name].directory / path).read_bytes()


# What there is


def test_starters_describe_themselves() -> None:
    assert set(ALL) == {"blank", "digits"}
    for starter in ALL.values():
        assert 10 < len(starter.summary) < 90
        assert any(command.startswith("tritonkit build-repo spec.yaml") for command in starter.commands)
    assert {path.as_posix() for path in ALL["digits"].files} == DIGITS


@pytest.mark.parametrize("name", ALL)
def test_commands_exist_and_name_files_that_exist(name: str) -> None:
    from typer.main import get_command

    known = set(get_command(app).commands)  # type: ignore[attr-defined]
    for command in ALL[name].commands:
        words = command.partition("#")[0].split()
        assert words[0] in ("tritonkit", "python", "cp")
        if words[0] == "tritonkit":
            assert words[1] in known
        for word in words[2 if words[0] == "tritonkit" else 1 :]:
            file = word.partition("@")[2] or word
            if "." in file and words[0] != "cp":
                assert (ALL[name].directory / file).is_file()


@pytest.mark.parametrize("arguments", [(), ("--list",), ("--list", "digits")])
def test_list(arguments: tuple[str, ...], project: Path) -> None:
    result = tritonkit("init", *arguments)
    assert result.exit_code == 0
    for starter in ALL.values():
        assert re.search(rf"^\s*{starter.name}\s+{re.escape(starter.summary)}\s*$", result.stdout, re.MULTILINE)
    assert not files(project)


def test_unknown_starter_is_told_the_nearest(project: Path) -> None:
    result = tritonkit("init", "Digts")
    assert result.exit_code == 2
    assert result.stdout == ""
    assert "there is no starter 'Digts'" in result.stderr
    assert "; did you mean 'digits'?" in result.stderr
    assert not files(project)


@pytest.mark.parametrize("name", ["", ".", "..", "../starters/digits", "/etc", "digits/src"])
def test_paths_are_no_starters(name: str) -> None:
    with pytest.raises(UsageError, match="there is no starter"):
        starters.find(name)


# Copying


@pytest.mark.parametrize("name", ALL)
def test_copy_is_whole_and_tells_what_is_next(name: str, project: Path) -> None:
    result = tritonkit("init", name)
    assert result.exit_code == 0
    check_copy(name, project / name)
    assert os.listdir(project) == [name]
    assert files(project / name) == {path.as_posix() for path in ALL[name].files}
    told = [line.strip() for line in result.stdout.splitlines()]
    assert told[0] == f"{name}: {len(ALL[name].files)} files. Next:"
    assert told[2:] == [f"cd {name}", *ALL[name].commands]


def test_output_makes_folders_and_is_quoted(project: Path) -> None:
    result = tritonkit("init", "digits", "--output", "new folder/of/mine")
    assert result.exit_code == 0
    assert "cd 'new folder/of/mine'\n" in result.stdout
    check_copy("digits", project / "new folder/of/mine")


def test_into_the_working_directory(project: Path) -> None:
    (project / "notes.txt").write_text("mine")
    result = tritonkit("init", "digits", "--output", ".")
    assert result.exit_code == 0
    assert "cd " not in result.stdout
    check_copy("digits", project)
    assert files(project) == DIGITS | {"notes.txt"}
    assert (project / "notes.txt").read_text() == "mine"


def test_dry_run_writes_nothing(project: Path) -> None:
    result = tritonkit("init", "digits", "--dry-run")
    assert result.exit_code == 0
    assert {line.removeprefix("digits/") for line in result.stdout.splitlines()} == DIGITS
    assert not os.listdir(project)


def test_new_folder_has_the_usual_modes(project: Path) -> None:
    before = os.umask(0o027)
    try:
        starters.copy(ALL["digits"], project / "digits")
    finally:
        os.umask(before)
    assert (project / "digits").stat().st_mode & 0o777 == 0o750
    assert (project / "digits/spec.yaml").stat().st_mode & 0o777 == 0o640


def test_caches_beside_a_starter_are_no_part_of_it(project: Path) -> None:
    shutil.copytree(ALL["digits"].directory, project / "mine")
    for clutter in ("__pycache__/train.pyc", "src/read_image/__pycache__/model.pyc", ".tritonkit/state.json"):
        (project / "mine" / clutter).parent.mkdir(exist_ok=True)
        (project / "mine" / clutter).write_text("clutter")
    assert {path.as_posix() for path in starters.read(project / "mine").files} == DIGITS


# What is in the way


@pytest.mark.parametrize("dry_run", [False, True])
def test_second_copy_is_refused_and_names_the_files(dry_run: bool, project: Path) -> None:
    assert tritonkit("init", "digits").exit_code == 0
    (project / "digits/spec.yaml").write_text("mine")
    before = files(project)
    result = tritonkit("init", "digits", *(["--dry-run"] if dry_run else []))
    assert result.exit_code == 1
    assert result.stdout == ""
    assert "digits has files in the way: .gitignore, README.md, evaluate.py" in result.stderr
    assert "and 12 more" in result.stderr
    assert "--output" in result.stderr
    assert (project / "digits/spec.yaml").read_text() == "mine"
    assert files(project) == before


def test_one_file_in_the_way_stops_all(project: Path) -> None:
    (project / "digits/samples").mkdir(parents=True)
    (project / "digits/samples/9.png").write_text("mine")
    result = tritonkit("init", "digits")
    assert result.exit_code == 1
    assert "digits has files in the way: samples/9.png\n" in result.stderr
    assert files(project) == {"digits/samples/9.png"}


def test_file_where_a_folder_must_be(project: Path) -> None:
    (project / "digits").mkdir()
    (project / "digits/models").write_text("mine")
    result = tritonkit("init", "digits")
    assert result.exit_code == 1
    assert "digits has files in the way: models\n" in result.stderr
    assert files(project) == {"digits/models"}


def test_dangling_link_is_not_written_through(project: Path) -> None:
    (project / "digits").mkdir()
    (project / "digits/spec.yaml").symlink_to(project / "elsewhere")
    with pytest.raises(RepositoryConflict, match=r"spec\.yaml"):
        starters.copy(ALL["digits"], project / "digits")
    assert not (project / "elsewhere").exists()


@pytest.mark.parametrize("kind", ["file", "dangling link"])
def test_target_that_is_no_folder(kind: str, project: Path) -> None:
    if kind == "file":
        (project / "digits").write_text("mine")
    else:
        (project / "digits").symlink_to("nowhere")
    result = tritonkit("init", "digits")
    assert result.exit_code == 1
    assert "digits is in the way: it is no folder" in result.stderr
    assert os.listdir(project) == ["digits"]


def test_output_below_a_file(project: Path) -> None:
    (project / "notes").write_text("mine")
    result = tritonkit("init", "digits", "--output", "notes/digits")
    assert result.exit_code == 1
    assert "error: notes" in result.stderr
    assert os.listdir(project) == ["notes"]


@pytest.mark.parametrize("target", ["digits", "a/b", "held"])
def test_full_disk_leaves_nothing_behind(target: str, project: Path) -> None:
    # A limit on the size of files: the first ones are written, the network is not.
    (project / "held/models").mkdir(parents=True)
    (project / "held/models/mine.onnx").write_text("mine")
    before = sorted(project.rglob("*"))
    done = subprocess.run(
        [sys.executable, "-m", "tritonkit", "init", "digits", "--output", target],
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000)),
    )
    assert done.returncode == 1
    assert re.fullmatch(rf"error: {target}: File too large\n", done.stderr)
    assert sorted(project.rglob("*")) == before


@pytest.mark.parametrize("exists", [False, True])
def test_of_several_at_once_one_wins(exists: bool, project: Path) -> None:
    if exists:
        (project / "digits").mkdir()
    argv = [sys.executable, "-m", "tritonkit", "init", "digits"]
    running = [subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(4)]
    ends = [(process.communicate(timeout=60)[1], process.returncode) for process in running]
    assert sorted(code for _, code in ends) == [0, 1, 1, 1]
    assert all("in the way" in message for message, code in ends if code)
    check_copy("digits", project / "digits")
    assert os.listdir(project) == ["digits"]


# They build


def test_digits_builds_as_it_is(project: Path) -> None:
    assert tritonkit("init", "digits").exit_code == 0
    result = tritonkit("build-repo", "digits/spec.yaml")
    assert result.exit_code == 0, result.stderr
    built = files(project / "digits/model_repository")
    assert {f"{model}/config.pbtxt" for model in ("digits", "read_image", "classify")} <= built
    assert {"digits/labels.txt", "classify/labels.txt", "read_image/1/decoding.py", "digits/1/model.onnx"} <= built


@pytest.mark.parametrize("uncommented", [False, True])
def test_blank_builds_with_a_model_in_its_place(uncommented: bool, project: Path) -> None:
    assert tritonkit("init", "blank").exit_code == 0
    spec = project / "blank/spec.yaml"
    result = tritonkit("build-repo", spec)
    assert result.exit_code == 2
    assert "models.my_model.source" in result.stderr
    identity(project / "blank/models/model.onnx")
    if uncommented:
        text, count = re.subn(r"^( *)#(?=\S)(?!  )", r"\1", spec.read_text(), flags=re.MULTILINE)
        text = re.sub(r"^( *)#(  \w+: )", r"\1\2", text, flags=re.MULTILINE)
        assert count == 2
        spec.write_text(text)
    result = tritonkit("build-repo", spec)
    assert result.exit_code == 0, result.stderr
    config = (project / "blank/model_repository/my_model/config.pbtxt").read_text()
    assert 'backend: "onnxruntime"' in config
    for words in ("max_queue_delay_microseconds: 500", "max_queue_size: 100", "kind: KIND_CPU"):
        assert (words in config) == uncommented
