"""The part of the ``onnxruntime`` backend that runs inside tritonserver: C, compiled when it is first needed."""

from __future__ import annotations

import importlib.util
import platform
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from tritonkit.errors import CommandFailed, ToolMissing, TritonkitError
from tritonkit.tools import c_compiler, digests

BACKEND = "onnxruntime"
LIBRARY = f"libtriton_{BACKEND}.so"
# The link by which it finds onnxruntime itself.
ONNXRUNTIME = "libonnxruntime.so"
# What model.py puts in the log when there is no library.
REASON = "own_process.txt"
# Of the files that a library was compiled of ahead, and of its machine. An update of tritonkit brings other files, and
# leaves the library there.
_DIGEST = f"{LIBRARY}.sha256"
# Characters of a compiler's words.
_SHOWN = 300


def sources(backends: Path) -> list[Path]:
    """The C files, headers included; and the library, where ``compile_ahead`` has made it of just these."""
    files, library = _c_files(backends), backends / BACKEND / LIBRARY
    digest = library.with_name(_DIGEST)
    if library.is_file() and digest.is_file() and digest.read_text(encoding="ascii") == _digest(files):
        return [*files, library]
    return files


def compile_ahead(backends: Path) -> None:
    """Compile it where it is installed, for an image that is to have no compiler.

    Raises:
        ToolMissing: there is no compiler.
        CommandFailed: it failed; its words are in the error.
    """
    files, library = _c_files(backends), backends / BACKEND / LIBRARY
    _compile(files, library)
    library.with_name(_DIGEST).write_text(_digest(files), encoding="ascii")


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
    yield from _machine()


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


def renew_reason(newer: Path, folder: Path) -> None:
    """Have the reason in a backend's folder, if there is one, be that of another folder in the same file system."""
    if (newer / REASON).is_file():
        (newer / REASON).replace(folder / REASON)


def is_in(backend_directory: Path) -> bool:
    """Whether a backend directory has the library."""
    return (backend_directory / BACKEND / LIBRARY).is_file()


def _c_files(backends: Path) -> list[Path]:
    return sorted((backends / BACKEND).glob("*.[ch]"))


def _digest(files: Sequence[Path]) -> str:
    each = (f"{file.name} {digests.of_file(file)}" for file in files)
    return digests.of_bytes("\n".join((*_machine(), *each)).encode())


def _machine() -> tuple[str, ...]:
    """What a compiled library runs on: caches, and installations, may be shared or carried elsewhere."""
    return platform.machine(), *platform.libc_ver()


def _compile(files: Sequence[Path], target: Path) -> None:
    compiled = next((file for file in files if file.name == LIBRARY), None)
    if compiled is not None:
        shutil.copyfile(compiled, target)
        return
    c_compiler.shared_library([file for file in files if file.suffix == ".c"], target)
