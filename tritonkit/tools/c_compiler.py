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

from tritonkit.errors import CommandFailed, ToolMissing
from tritonkit.tools.commands import run

INSTALL = (
    "Install a C compiler with the system's package manager (gcc and libc6-dev), or without root: "
    "pip install ziglang; or name one in CC."
)
_FLAGS = ("-std=c11", "-D_GNU_SOURCE", "-O2", "-fPIC", "-fvisibility=hidden", "-shared", "-pthread")
# Opens a library as tritonserver does, but for what whoever loads it must define.
_LOAD = """
import ctypes, os, sys
library = ctypes.CDLL(None)
library.dlopen.restype, library.dlerror.restype = ctypes.c_void_p, ctypes.c_char_p
if not library.dlopen(os.fsencode(sys.argv[1]), os.RTLD_LAZY):
    words = os.fsdecode(library.dlerror())
    if "undefined symbol" not in words:
        sys.exit(words)
"""
# Seconds; zig compiles parts of its own C library at its first run.
_PATIENCE = 120


def find() -> tuple[str, ...]:
    """The compiler, as the start of a command line: ``$CC``, else cc, gcc, clang, or zig from the package ziglang.

    Raises:
        ToolMissing: there is none, or ``$CC`` is none.
    """
    try:
        stated = shlex.split(os.environ.get("CC", ""))
    except ValueError as error:
        raise ToolMissing(f"CC cannot be read: {os.environ['CC']}: {error}", hint=INSTALL) from error
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
    """Compile C files to one shared library that loads here. What they do not define, whoever loads it must.

    Raises:
        ToolMissing: there is no compiler.
        CommandFailed: it failed, or what it made does not load; the words are in the error, and nothing is left.
    """
    argv = (*find(), *_FLAGS, "-o", str(target), *map(str, sources), "-ldl")
    target.unlink(missing_ok=True)
    try:
        _compile(argv, target)
    except CommandFailed:
        target.unlink(missing_ok=True)
        raise


def _compile(argv: Sequence[str], target: Path) -> None:
    try:
        run(argv, timeout=_PATIENCE, hint=INSTALL)
    except OSError as error:
        raise CommandFailed(argv, 126, f"it cannot be run: {error.strerror}", hint=INSTALL) from error
    if not target.is_file():
        raise CommandFailed(argv, 0, "it has made nothing", hint=INSTALL)
    # In another process, which it may harm: a compiler can be one for another machine.
    try:
        run((sys.executable, "-I", "-c", _LOAD, str(target.absolute())), timeout=_PATIENCE)
    except CommandFailed as error:
        words = f"what it has made does not load: {error.output.strip() or f'exit code {error.returncode}'}"
        raise CommandFailed(argv, 0, words, hint=INSTALL) from error


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
