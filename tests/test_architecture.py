"""The house keeps its shape: imports run downwards, the command line stays light, the wheel is whole."""

from __future__ import annotations

import ast
import importlib
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import typer
from typer.main import get_group
from typer.testing import CliRunner

from tritonkit.cli.app import app
from tritonkit.cli.program import MODULES, Commands
from tritonkit.serve import native_backend

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "tritonkit"

# Each part may import those named after it, and itself.
ALLOWED = {
    "errors": set(),
    "resources": set(),
    "tools": {"errors"},
    "spec": {"errors"},
    "artifacts": {"errors", "tools", "spec"},
    "client": {"errors"},
    "modelconfig": {"errors", "resources", "spec", "artifacts"},
    "backends": set(),
    "starters": {"errors", "resources"},
    "repository": {"errors", "resources", "tools", "spec", "artifacts", "modelconfig"},
    "serve": {"errors", "resources", "tools", "client", "spec", "modelconfig"},
    "bench": {"errors", "resources", "tools", "client", "spec", "modelconfig"},
    "provision": {"errors", "resources", "tools", "client", "spec", "modelconfig", "bench"},
    "doctor": {"errors", "tools"},
    "cli": {
        "errors", "resources", "tools", "spec", "artifacts", "client", "modelconfig",
        "starters", "repository", "serve", "bench", "provision", "doctor",
        # Which batch sizes they pad to: what a plan is validated with.
        "backends",
    },
}  # fmt: skip


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def imported(module: Path) -> set[str]:
    """The parts of tritonkit that a module imports, wherever in it the import stands."""
    parts: set[str] = set()
    for node in ast.walk(ast.parse(module.read_text())):
        names = []
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: imports are absolute"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        parts.update(name.split(".")[1] for name in names if name.startswith("tritonkit."))
    return parts


@pytest.mark.parametrize("module", modules(), ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_imports_run_downwards(module: Path) -> None:
    part = module.relative_to(PACKAGE).parts[0].removesuffix(".py")
    if part in ("__init__", "__main__"):
        assert imported(module) == ({"cli"} if part == "__main__" else set())
        return
    assert part in ALLOWED, f"a new part of the house: say in ALLOWED what {part} may import"
    assert imported(module) - {part, "__version__"} <= ALLOWED[part]


@pytest.mark.parametrize("module", modules(), ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_modules_stay_small(module: Path) -> None:
    assert len(module.read_text().splitlines()) <= 320


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; sys.argv = ['tritonkit', '--help']\n"
        "from tritonkit.cli import main\n"
        "try: main()\n"
        "except SystemExit as end: assert not end.code, end.code\n"
        "heavy = {'torch', 'onnx', 'onnxruntime', 'numpy', 'tritonclient', 'jinja2', 'yaml', 'pydantic', 'google'}\n"
        "print(sorted(heavy & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "build-repo" in done.stdout
    assert done.stderr.strip() == "[]"


def test_a_command_loads_its_own_module_and_no_other_command() -> None:
    code = (
        "import sys; sys.argv = ['tritonkit', 'schema']\n"
        "from tritonkit.cli import main\n"
        "try: main()\n"
        "except SystemExit as end: assert not end.code, end.code\n"
        "print(*sys.modules, sep='\\n', file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    commands = {f"tritonkit.cli.{module}" for module in MODULES.values()}
    assert commands & set(done.stderr.split()) == {"tritonkit.cli.schema"}


@pytest.mark.parametrize("module", sorted(set(MODULES.values())))
def test_the_commands_of_a_module_are_those_that_the_program_knows(module: str) -> None:
    alone = typer.Typer()
    importlib.import_module(f"tritonkit.cli.{module}").register(alone)
    assert set(get_group(alone).commands) == {name for name, where in MODULES.items() if where == module}


def test_help_says_of_each_command_what_the_command_says_of_itself() -> None:
    described, whole = Commands(with_options=False), Commands()
    for name in whole:
        assert described[name].get_short_help_str() == whole[name].get_short_help_str() != ""
        assert described[name].name == name
    help_text = CliRunner(env={"COLUMNS": "200"}).invoke(app, ["--help"]).output
    assert all(whole[name].get_short_help_str(150).removesuffix("...") in help_text for name in whole)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("tritonkit b", {"build-repo", "bench"}),
        ("tritonkit mps ", {"status", "set"}),
        ("tritonkit status --", {"--json", "--help"}),
        ("tritonkit up --engine ", {"native", "docker"}),
    ],
)
def test_a_shell_completes_commands_and_their_options(words: str, expected: set[str]) -> None:
    asked = {
        "_TRITONKIT_COMPLETE": "complete_bash",
        "COMP_WORDS": words,
        "COMP_CWORD": str(len(words.split(" ")) - 1),
    }
    code = "import sys; sys.argv = ['tritonkit']\nfrom tritonkit.cli import main; main()"
    argv = [sys.executable, "-c", code]
    done = subprocess.run(argv, capture_output=True, text=True, check=True, env={**os.environ, **asked})
    assert set(done.stdout.split()) == expected


def test_a_mistyped_command_is_told_its_neighbour() -> None:
    outcome = CliRunner().invoke(app, ["buidl-repo"])
    assert outcome.exit_code == 2
    assert "Did you mean 'build-repo'" in outcome.output


def test_every_command_has_help_with_an_example() -> None:
    commands = get_group(app).commands
    assert {"build-repo"} <= set(commands)
    for name, command in commands.items():
        assert command.help, f"{name} has no help"
        assert "tritonkit" in (command.epilog or ""), f"{name} has no example"
        for parameter in command.params:
            assert getattr(parameter, "help", None), f"{name}: {parameter.name} has no help"


def test_wheel_holds_the_templates_and_what_is_compiled(tmp_path: Path) -> None:
    argv = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "-q",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        str(tmp_path),
        str(ROOT),
    ]
    subprocess.run(argv, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    held = set(zipfile.ZipFile(wheel).namelist())
    wanted = {
        f"tritonkit/templates/{file.relative_to(ROOT / 'templates').as_posix()}" for file in committed("templates")
    }
    assert wanted
    assert wanted <= held
    assert "tritonkit/py.typed" in held
    compiled = {file.relative_to(ROOT).as_posix() for file in native_backend.sources(PACKAGE / "backends")}
    assert compiled
    assert compiled <= held


def committed(folder: str) -> list[Path]:
    listing = subprocess.run(["git", "ls-files", folder], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [ROOT / line for line in listing.splitlines()]
