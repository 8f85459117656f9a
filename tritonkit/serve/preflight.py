"""What was found good once is not tried again: the check of a bundled tritonserver, remembered.

The check runs the Python stub and reads the metadata of packages, which every start would wait for. Its good
end is noted under tritonkit's cache, in the name of everything that it depends on: when one of these files
changes, the name does, and the check runs again. Only a good end is noted.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import sysconfig
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from tritonkit.tools import tritonserver
from tritonkit.tools.commands import cache_directory
from tritonkit.tools.tritonserver import TritonServer


def preflight(server: TritonServer) -> None:
    """As ``tritonserver.check``, unless the same files passed it before.

    Raises:
        ToolMissing: a program or a library that the Python stub needs is not here.
        LaunchFailed: this environment holds packages that the stub cannot use.
    """
    if server.stub is None:
        return
    note = cache_directory() / "checked" / _key(server, server.stub)
    if note.exists():
        return
    tritonserver.check(server)
    # Where it cannot be noted, the next start checks again.
    with suppress(OSError):
        note.parent.mkdir(parents=True, exist_ok=True)
        note.touch()


def _key(server: TritonServer, stub: Path) -> str:
    digest = hashlib.sha256()
    for fact in _facts(server, stub):
        digest.update(f"{fact}\0".encode(errors="surrogateescape"))
    return digest.hexdigest()[:32]


def _facts(server: TritonServer, stub: Path) -> Iterator[object]:
    yield server.version
    yield from _file(stub)
    yield shutil.which("bash")
    yield from _file(tritonserver.environment_programs() / "python3")
    folders = tritonserver.library_path()
    yield folders
    for folder in folders.split(os.pathsep):
        yield from _file(Path(folder) / str(sysconfig.get_config_var("INSTSONAME")))
    numpy = importlib.util.find_spec("numpy")
    if numpy is None or numpy.origin is None:
        yield "no numpy"
        return
    # The file that holds its version; another package may stand in the same place.
    said = Path(numpy.origin).with_name("version.py")
    yield from _file(said)
    yield said.read_bytes() if said.is_file() else b""


def _file(path: Path) -> tuple[object, ...]:
    try:
        status = path.stat()
    except OSError:
        return (path, "missing")
    return (path, status.st_ino, status.st_size, status.st_mtime_ns)
