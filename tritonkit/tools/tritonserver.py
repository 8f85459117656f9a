"""tritonserver: where it is, and whether this environment can run it.

Two kinds are known. A *native* installation (NVIDIA's container, or a build of one's own) brings all its
backends. The *bundled* one comes in the wheel nvidia-pytriton; it has the Python backend and nothing else,
so tritonkit assembles a backend directory for it.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path

from tritonkit.errors import LaunchFailed, ToolMissing, UsageError

INSTALL = "pip install 'tritonkit[server]'"
NATIVE_ROOT = Path("/opt/tritonserver")
STUB = "triton_python_backend_stub"
# For the bundled server. A message of hundreds of kB is memory that the C library would give back after each request,
# and then has to fault in again: a fifth of what tritonserver spends on one. What is kept so is kept in each arena, by
# default eight for every core; more than four serve hardly more requests (benchmarks/arenas.py).
ALLOCATOR = {
    "MALLOC_ARENA_MAX": "4",
    "MALLOC_MMAP_THRESHOLD_": str(32 * 1024 * 1024),
    "MALLOC_TRIM_THRESHOLD_": str(256 * 1024 * 1024),
    "MALLOC_TOP_PAD_": str(16 * 1024 * 1024),
}
# tritonserver starts the Python stub through a shell, with these paths unquoted in the command.
_SHELL_SAFE = re.compile(r"[^\s|&;<>()$`\\\"'*?\[\]#~!{}]+")


@dataclass(frozen=True)
class TritonServer:
    """An installed tritonserver.

    Attributes:
        binary: the program.
        version: as its installation names it.
        backends: the folder of the backends that came with it.
        caches: the folder of its response caches.
        stub: the Python stub for the running interpreter; None for a native installation, whose Python
            backend has a stub of its own.
    """

    binary: Path
    version: str
    backends: Path
    caches: Path
    stub: Path | None

    @property
    def bundled(self) -> bool:
        """Whether it is the wheel's server, which needs a backend directory of tritonkit's making."""
        return self.stub is not None


def find() -> TritonServer:
    """The tritonserver of this machine: a native one (``PATH``, /opt/tritonserver), else the wheel's.

    Nothing is imported and nothing is run.

    Raises:
        ToolMissing: there is none, or the wheel has no stub for this version of Python.
    """
    server = _native() or _bundled()
    if server is None:
        raise ToolMissing("tritonserver is not installed", hint=f"Install it with: {INSTALL}")
    return server


def check(server: TritonServer) -> None:
    """Refuse what would make the bundled server hang or answer nonsense; a native one is left to itself.

    Raises:
        ToolMissing: a program or a library that the Python stub needs is not here.
        LaunchFailed: this environment holds numpy 2, which the stub cannot use.
    """
    if server.stub is None:
        return
    _check_numpy()
    if shutil.which("bash") is None:
        raise ToolMissing(
            "bash is not installed: tritonserver starts its Python stub through it",
            hint="Install bash with the system's package manager.",
        )
    if not (environment_programs() / "python3").exists():
        raise ToolMissing(
            f"{environment_programs()} has no python3: Triton's Python stub finds its packages through it",
            hint="Run tritonkit from a virtual environment: python3 -m venv .venv",
        )
    _check_stub(server.stub)


def environment_programs() -> Path:
    """The folder of this environment's programs.

    The stub takes its packages from the first ``python3`` on ``PATH``, so this folder must come first there.
    """
    return Path(sys.executable).parent


def library_path() -> str:
    """``LD_LIBRARY_PATH`` for the bundled server: libpython's folder before what is set already."""
    folders = [str(sysconfig.get_config_var("LIBDIR") or ""), os.environ.get("LD_LIBRARY_PATH", "")]
    return os.pathsep.join(folder for folder in folders if folder)


def _native() -> TritonServer | None:
    found = shutil.which("tritonserver")
    binary = Path(found).resolve() if found else NATIVE_ROOT / "bin" / "tritonserver"
    if not os.access(binary, os.X_OK):
        return None
    root = binary.parent.parent
    noted = root / "TRITON_VERSION"
    return TritonServer(
        binary=binary,
        version=noted.read_text().strip() if noted.is_file() else "unknown",
        backends=root / "backends",
        caches=root / "caches",
        stub=None,
    )


def _bundled() -> TritonServer | None:
    found = importlib.util.find_spec("pytriton")
    if found is None or not found.submodule_search_locations:
        return None
    root = Path(found.submodule_search_locations[0]) / "tritonserver"
    binary = root / "bin" / "tritonserver"
    if not binary.is_file():
        return None
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    stub = root / "python_backend_stubs" / python / STUB
    if not stub.is_file():
        here = ", ".join(sorted(path.name for path in stub.parent.parent.glob("*")))
        raise ToolMissing(
            f"the tritonserver in {root} has no Python stub for Python {python}; it has: {here}",
            hint="Make the environment with one of these versions of Python.",
        )
    return TritonServer(
        binary=binary,
        version=f"nvidia-pytriton {_wheel_version(root.parent) or 'of unknown version'}",
        backends=root / "backends",
        caches=root / "caches",
        stub=stub,
    )


def _wheel_version(package: Path) -> str | None:
    # The folder that pip keeps beside a package has the version in its name. Every start asks for it, and
    # reading metadata takes longer than all the rest of finding the server.
    found = [path.stem.rpartition("-")[2] for path in package.parent.glob("nvidia_pytriton-*.dist-info")]
    if len(found) == 1:
        return found[0]
    from tritonkit.tools import packages

    return packages.version("nvidia-pytriton")


def _check_numpy() -> None:
    from tritonkit.tools import packages

    version = packages.version("numpy")
    if version is None:
        raise ToolMissing("numpy is not installed: Triton's Python stub needs it", hint=INSTALL)
    if int(version.split(".", maxsplit=1)[0]) >= 2:
        raise LaunchFailed(
            f"numpy {version} is installed: with numpy 2, Triton's Python stub reads garbage and "
            "answers with empty tensors",
            hint="Install the version before it: pip install 'numpy<2'",
        )


def _check_stub(stub: Path) -> None:
    # Run with no arguments, a stub that finds all its libraries complains about that and ends with 1. One
    # that does not start would leave tritonserver waiting for it for ever.
    try:
        done = subprocess.run(
            [str(stub)],
            env={**os.environ, "LD_LIBRARY_PATH": library_path()},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=30,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ToolMissing(f"Triton's Python stub does not start: {error}", hint=INSTALL) from error
    if done.returncode != 1:
        library = f"libpython{sys.version_info.major}.{sys.version_info.minor}.so"
        raise ToolMissing(
            f"Triton's Python stub does not start (exit code {done.returncode}): {done.stdout.strip()}",
            hint=f"It needs the shared library of this Python ({library}): install that of your system, or "
            "use a Python built with --enable-shared.",
        )


def check_path(what: str, path: Path) -> None:
    """Refuse a path that the bundled server's Python stub cannot take.

    Args:
        what: what the path is of, in words.
        path: where it is.

    Raises:
        UsageError: the path has a character that a shell would read, or one that is not ASCII.
    """
    if not _SHELL_SAFE.fullmatch(str(path)):
        raise UsageError(
            f"{what} has a space or a character with a meaning to a shell in its path: {str(path)!r}",
            hint="tritonserver passes such a path to a shell unquoted, and would hang. Move or rename it.",
        )
    if not str(path).isascii():
        raise UsageError(
            f"{what} has a letter that is not ASCII in its path: {str(path)!r}",
            hint="The Python stub of this tritonserver cannot read such a path. Move or rename it.",
        )
