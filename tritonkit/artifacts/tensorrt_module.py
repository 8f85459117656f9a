"""Which TensorRT is here. TensorRT and TensorRT for RTX have one API under two names."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from importlib import util
from types import ModuleType

from tritonkit.errors import ToolMissing
from tritonkit.tools import packages

# Import name, what has to be imported before it, and the distributions that may hold it. The first one here is used.
_KNOWN: tuple[tuple[str, str | None, tuple[str, ...]], ...] = (
    ("tensorrt", None, ("tensorrt", "tensorrt-cu13", "tensorrt-cu12")),
    ("tensorrt_rtx", None, ("tensorrt-rtx", "tensorrt-rtx-cu13", "tensorrt-rtx-cu12")),
    (
        "tensorrt_rtx_bindings",
        "tensorrt_rtx_libs",
        ("tensorrt-rtx-cu13-bindings", "tensorrt-rtx-cu12-bindings"),
    ),
)

RTX = "tensorrt-rtx"
"""How the distributions of TensorRT for RTX begin."""


@dataclass(frozen=True)
class Installed:
    """A TensorRT that can be imported.

    Attributes:
        module: its import name.
        before: what has to be imported first, or None.
        distribution: the name of the package that holds it.
        version: that package's version.
    """

    module: str
    before: str | None
    distribution: str
    version: str


def find() -> Installed | None:
    """The TensorRT that is installed here, told without importing it."""
    for module, before, distributions in _KNOWN:
        if util.find_spec(module) is None:
            continue
        for distribution in distributions:
            version = packages.version(distribution)
            if version is not None:
                return Installed(module, before, distribution, version)
    return None


def load() -> ModuleType:
    """Import it.

    Raises:
        ToolMissing: there is none, or its libraries are missing.
    """
    found = find()
    hint = "pip install 'tritonkit[tensorrt]', or tensorrt-rtx for GeForce and RTX GPUs"
    if found is None:
        raise ToolMissing("no TensorRT is installed; plans are built by its Python package", hint=hint)
    try:
        if found.before is not None:
            importlib.import_module(found.before)
        return importlib.import_module(found.module)
    except (ImportError, OSError) as error:
        raise ToolMissing(f"{found.distribution} {found.version} cannot be imported: {error}", hint=hint) from error
