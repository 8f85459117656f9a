"""The part of the ``onnxruntime`` backend that runs inside tritonserver: C, compiled when it is first needed."""

from __future__ import annotations

import importlib.util
import platform
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from tritonkit.errors import CommandFailed, ToolMissing, TritonkitError
from tritonkit.tools import c_compiler

BACKEND = "onnxruntime"
LIBRARY = f"libtriton_{BACKEND}.so"
# The link by which it finds onnxruntime itself.
ONNXRUNTIME = "libonnxruntime.so"
# What model.py puts in the log when there is no library.
REASON = "own_process.txt"
# Characters of a compiler's words.
_SHOWN = 300


def sources(backends: Path) -> list[Path]:
    """The C files, headers included; and the library, where ``compile_ahead`` has put it beside them."""
    folder = backends / BACKEND
    return sorted([*folder.glob("*.[ch]"), *folder.glob(LIBRARY)])


def compile_ahead(backends: Path) -> None:
    """Compile it where it is installed, for an image that is to have no compiler.

    Raises:
        ToolMissing: there is no compiler.
        CommandFailed: it failed; its words are in the error.
    """
    library = backends / BACKEND / LIBRARY
    library.unlink(missing_ok=True)
    _compile(sources(backends), library)


def onnxruntime_library() -> Path:
    """The library in the installed package onnxruntime.

    Raises:
        ToolMissing: it is not installed, or so old that it brings none.
    """
    found = importlib.util.find_spec("onnxruntime")
    if found is None or not found.submodule_search_locations:
        raise ToolMissing("onnxruntime is not installed", hint="pip install 'tritonkit[cpu]'")
    libraries = sorted(Path(found.submodule_search_locations[0]).glob(f"capi/{ONNXRUNTIME}*"))
    if not libraries:
        raise ToolMissing(f"the installed onnxruntime brings no {ONNXRUNTIME}", hint="Install a newer onnxruntime.")
    return libraries[0]


def facts() -> Iterator[object]:
    """What the library depends on beside its sources."""
    try:
        library = onnxruntime_library()
        status = library.stat()
    except (TritonkitError, OSError) as error:
        yield error
        return
    yield from (library, status.st_size, status.st_mtime_ns)
    # A cache may be shared by machines.
    yield from (platform.machine(), *platform.libc_ver())


def add(folder: Path, files: Sequence[Path]) -> bool:
    """Put the library into a backend's folder; where it cannot be compiled, leave the reason there instead.

    Returns: whether it is there.
    """
    try:
        onnxruntime = onnxruntime_library()
        _compile(files, folder / LIBRARY)
    except (ToolMissing, CommandFailed) as error:
        words = str(error.args[0])
        if isinstance(error, CommandFailed):
            words = f"{error.argv[0]} does not compile it: {' '.join(error.output.split())[:_SHOWN]}"
        # Read in Triton's Python stub, which may know ASCII alone.
        (folder / REASON).write_text(f"{words}. {error.hint}", encoding="ascii", errors="replace")
        return False
    (folder / ONNXRUNTIME).symlink_to(onnxruntime)
    return True


def is_in(backend_directory: Path) -> bool:
    """Whether a backend directory has the library."""
    return (backend_directory / BACKEND / LIBRARY).is_file()


def _compile(files: Sequence[Path], target: Path) -> None:
    compiled = next((file for file in files if file.name == LIBRARY), None)
    if compiled is not None:
        shutil.copyfile(compiled, target)
        return
    c_compiler.shared_library([file for file in files if file.suffix == ".c"], target)
