"""The house keeps its shape: imports run downwards, the command line stays light, the wheel is whole."""

from __future__ import annotations

import ast
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

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


def test_every_command_has_help_with_an_example() -> None:
    from typer.main import get_command

    from tritonkit.cli.app import app

    commands = get_command(app).commands  # type: ignore[attr-defined]
    assert {"build-repo"} <= set(commands)
    for name, command in commands.items():
        assert command.help, f"{name} has no help"
        assert "tritonkit" in (command.epilog or ""), f"{name} has no example"
        for parameter in command.params:
            assert getattr(parameter, "help", None), f"{name}: {parameter.name} has no help"


def test_wheel_holds_the_templates(tmp_path: Path) -> None:
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


def committed(folder: str) -> list[Path]:
    listing = subprocess.run(["git", "ls-files", folder], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [ROOT / line for line in listing.splitlines()]
