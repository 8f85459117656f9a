"""The C compiler of this machine, and shared libraries made with it."""

from __future__ import annotations

import importlib.util
import os
import shlex
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tritonkit.errors import ToolMissing
from tritonkit.tools.commands import run

INSTALL = (
    "Install a C compiler with the system's package manager (gcc and libc6-dev), or without root: "
    "pip install ziglang; or name one in CC."
)
_FLAGS = ("-std=c11", "-D_GNU_SOURCE", "-O2", "-fPIC", "-fvisibility=hidden", "-shared", "-pthread")
# Seconds; zig compiles parts of its own C library at its first run.
_PATIENCE = 120


def find() -> tuple[str, ...]:
    """The compiler, as the start of a command line: ``$CC``, else cc, gcc, clang, or zig from the package ziglang.

    Raises:
        ToolMissing: there is none, or ``$CC`` is none.
    """
    stated = shlex.split(os.environ.get("CC", ""))
    for name in [stated[0]] if stated else ("cc", "gcc", "clang"):
        found = shutil.which(name)
        if found is not None:
            return (found, *stated[1:])
    if stated:
        raise ToolMissing(f"CC names a C compiler that is not here: {stated[0]}", hint=INSTALL)
    if importlib.util.find_spec("ziglang") is not None:
        return (sys.executable, "-m", "ziglang", "cc")
    raise ToolMissing("there is no C compiler", hint=INSTALL)


def shared_library(sources: Sequence[Path], target: Path) -> None:
    """Compile C files to one shared library. What they do not define, whoever loads it must.

    Raises:
        ToolMissing: there is no compiler.
        CommandFailed: it failed; its words are in the error.
    """
    argv = (*find(), *_FLAGS, "-o", str(target), *map(str, sources), "-ldl")
    run(argv, timeout=_PATIENCE, hint=INSTALL)


def check() -> tuple[str, ...]:
    """The compiler, once it has compiled something that needs the C library's headers.

    Raises:
        ToolMissing: there is no compiler.
        CommandFailed: it does not work; its words are in the error.
    """
    with tempfile.TemporaryDirectory(prefix="tritonkit-") as folder:
        source = Path(folder) / "check.c"
        source.write_text("#include <stdlib.h>\nvoid *check(void) { return malloc(1); }\n")
        shared_library([source], source.with_suffix(".so"))
    return find()
