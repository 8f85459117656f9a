"""What the tests of exporting share: a spec in a folder with torch modules beside it."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from typer.testing import CliRunner, Result

from tritonkit.artifacts.recipes import Asking, Tolerances, TorchRecipe
from tritonkit.artifacts.signature import Tensor
from tritonkit.cli.app import app

MODULES = Path(__file__).with_name("torch_modules.py")
IMAGE = (Tensor("image", "TYPE_FP32", (-1, 3, 16, 16)),)


@dataclass(frozen=True)
class Project:
    """A folder with ``spec.yaml`` and ``torch_modules.py``."""

    folder: Path

    def __init__(self, folder: Path, spec: str) -> None:
        object.__setattr__(self, "folder", folder)
        shutil.copy(MODULES, folder)
        self.write(spec)

    @classmethod
    def at(cls, folder: Path) -> Project:
        """A folder that is one already."""
        return cls(folder, (folder / "spec.yaml").read_text())

    def write(self, spec: str) -> None:
        """Replace the spec."""
        (self.folder / "spec.yaml").write_text(spec)

    def run(self, *arguments: str) -> Result:
        """Run ``tritonkit`` in the folder."""
        with inside(self.folder):
            return CliRunner().invoke(app, list(arguments))

    def export(self, *arguments: str) -> list[dict[str, Any]]:
        """Run ``tritonkit export``; its rows."""
        result = self.run("export", "spec.yaml", *arguments, "--json")
        assert result.exit_code == 0, result.output
        rows: list[dict[str, Any]] = json.loads(result.stdout)
        return rows

    def refused(self, *arguments: str, code: int = 4) -> str:
        """Run ``tritonkit export``, which must fail; its words."""
        result = self.run("export", "spec.yaml", *arguments)
        assert result.exit_code == code, result.output
        assert "Traceback" not in result.output, result.output
        return result.stderr


@contextmanager
def inside(folder: Path) -> Iterator[None]:
    """The folder as the working directory, for a while."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def spec(source: str, **keys: str) -> str:
    """A spec with one model ``net``, of a source and further keys."""
    lines = "".join(f"    {key}: {value}\n" for key, value in keys.items())
    return f"version: 1\nmodels:\n  net:\n    source: {source}\n{lines}"


def torch_spec(factory: str = "cnn", **keys: str) -> str:
    """A spec with one model ``net`` of torch."""
    defaults = {"max_batch_size": "8", "input": '{image: "FP32[3,16,16]"}'}
    return spec(f'{{torch: "torch_modules:{factory}"}}', **{**defaults, **keys})


def recipe(factory: str = "cnn", **changes: Any) -> TorchRecipe:
    """The conversion of a module of ``torch_modules``, the CNN to ONNX where nothing else is said."""
    values: dict[str, Any] = {
        "directory": MODULES.parent,
        "factory": f"torch_modules:{factory}",
        "arguments": {},
        "weights": None,
        "example": None,
        "inputs": IMAGE,
        "outputs": (),
        "filename": "model.onnx",
        "precision": None,
        "opset": None,
        "external_data": False,
        "asking": Asking(8),
        "tolerances": Tolerances(),
    }
    return TorchRecipe(**{**values, **changes})
