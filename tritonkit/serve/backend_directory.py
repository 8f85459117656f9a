"""The backend directory for the bundled tritonserver: its Python backend, and tritonkit's own backends.

It is assembled once under tritonkit's cache, in a folder named by the versions and the content that went
into it, and only read from then on. Where its C part cannot be compiled, it is another folder, with the reason
instead of that part: the next start tries again.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tritonkit.errors import TritonkitError
from tritonkit.serve import native_backend
from tritonkit.tools.commands import cache_directory
from tritonkit.tools.tritonserver import STUB, TritonServer

OWN_BACKENDS = Path(__file__).resolve().parent.parent / "backends"
LIBRARY = "libtriton_python.so"
UTILITIES = "triton_python_backend_utils.py"
# Ends the name of a backend directory whose backends all run in Triton's Python stub.
PYTHON_ONLY = "-python"


def assemble(server: TritonServer) -> Path:
    """The backend directory to start ``server`` with; a native one keeps its own.

    Made beside its place and renamed into it, so that it is whole or not there, whoever else is making it.

    Raises:
        TritonkitError: it cannot be written.
    """
    if server.stub is None:
        return server.backends
    own = sorted(OWN_BACKENDS.glob("*/model.py"))
    shared = sorted(set(OWN_BACKENDS.rglob("*.py")) - set(own))
    native = native_backend.sources(OWN_BACKENDS)
    place = cache_directory() / "backends" / _key(server, [*own, *shared, *native])
    if place.is_dir():
        return place
    try:
        return _make(place, server.stub, server.backends / "python", own, shared, native)
    except OSError as error:
        raise TritonkitError(
            f"{place}: the backend directory cannot be made: {error}",
            hint="Make room or give write access there, or name another folder in TRITONKIT_CACHE.",
        ) from error


def _make(
    place: Path, stub: Path, installed: Path, own: Sequence[Path], shared: Sequence[Path], native: Sequence[Path]
) -> Path:
    place.parent.mkdir(parents=True, exist_ok=True)
    making = Path(tempfile.mkdtemp(prefix=".making-", dir=place.parent))
    try:
        making.chmod(0o755)
        python = making / "python"
        python.mkdir()
        # tritonserver refuses a library that is a link out of the backend directory. The stub must be a link:
        # it finds its own libraries beside the place where it really lies.
        shutil.copy2(installed / LIBRARY, python / LIBRARY)
        (python / STUB).symlink_to(stub)
        (python / UTILITIES).symlink_to(installed / UTILITIES)
        for source in own:
            backend = making / source.parent.name
            backend.mkdir()
            shutil.copyfile(source, backend / source.name)
            _place_shared(backend, shared)
        if not native_backend.add(making / native_backend.BACKEND, native):
            place = place.with_name(f"{place.name}{PYTHON_ONLY}")
        try:
            making.rename(place)
        except OSError:
            # Another process may have been faster, or another reason was there for having no C part.
            if not place.is_dir():
                raise
            native_backend.renew_reason(making / native_backend.BACKEND, place / native_backend.BACKEND)
    finally:
        shutil.rmtree(making, ignore_errors=True)
    return place


def _place_shared(backend: Path, shared: Sequence[Path]) -> None:
    """Beside a model.py, under their own names: its Python may be one that tritonkit is not installed in."""
    package = backend / "tritonkit"
    for source in shared:
        target = package / "backends" / source.relative_to(OWN_BACKENDS)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
    (package / "__init__.py").touch()


def _key(server: TritonServer, own: Sequence[Path]) -> str:
    digest = hashlib.sha256()
    library = os.stat(server.backends / "python" / LIBRARY)
    for fact in (
        server.version,
        server.backends,
        server.stub,
        library.st_size,
        library.st_mtime_ns,
        *native_backend.facts(),
    ):
        digest.update(f"{fact}\0".encode())
    for source in own:
        digest.update(f"{source.relative_to(OWN_BACKENDS)}\0".encode())
        digest.update(source.read_bytes())
    return f"python{sys.version_info.major}.{sys.version_info.minor}-{digest.hexdigest()[:16]}"
