"""The images of docker/, built and run where no Docker engine is: buildah, without any isolation that needs one.

Nothing is pulled. The base of the images is made once, with debootstrap, and kept in buildah's storage, as are the
layers of the images; this machine's own way to packages (pip's configuration) is lent to the build.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from system_packages import program

ROOT = Path(__file__).parent.parent
BASE = "localhost/tritonkit-test-base:bookworm"
# As in Debian's images of Python: the interpreter, its shared library, its venv.
_PACKAGES = "python3,python3-venv,libpython3.11,ca-certificates,curl"
_PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
ISOLATION = ("--isolation", "chroot")


def buildah(*arguments: str, timeout: float = 600) -> str:
    """Run buildah; what it said on standard output."""
    done = subprocess.run(
        [str(program("buildah")), *arguments], capture_output=True, text=True, check=False, timeout=timeout
    )
    assert done.returncode == 0, f"buildah {' '.join(arguments)}\n{done.stdout[-2000:]}{done.stderr[-4000:]}"
    return done.stdout.strip()


def base() -> str:
    """The name of the base image, made if buildah does not have it yet."""
    if BASE in buildah("images", "--all", "--format", "{{.Name}}:{{.Tag}}").splitlines():
        return BASE
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(
            [str(program("debootstrap")), "--variant=minbase", f"--include={_PACKAGES}", "bookworm", folder],
            check=True,
            stdout=subprocess.DEVNULL,
        )
        container = buildah("from", "scratch")
        buildah("add", "--quiet", container, folder, "/")
        buildah("config", "--env", _PATH, container)
        buildah("commit", "--quiet", "--rm", container, BASE)
    return BASE


def build(dockerfile: str, tag: str, *, image: str, folder: Path) -> str:
    """Build a Dockerfile of docker/ on ``image``; the tag."""
    configuration, lent = _pip(folder)
    before = _identity(tag)
    volumes = [word for place in lent for word in ("--volume", f"{place}:{place}:ro")]
    buildah(
        "bud", *ISOLATION, "--layers", "--force-rm", "--format", "docker", "--build-arg", f"BASE={image}",
        "--secret", f"id=pip,src={configuration}", *volumes,
        "--file", str(ROOT / "docker" / dockerfile), "--tag", tag, str(ROOT),
    )  # fmt: skip
    if before not in ("", _identity(tag)):
        # Every change of the package would leave an image behind.
        buildah("rmi", "--force", before)
    return tag


def _identity(tag: str) -> str:
    return buildah("images", "--quiet", "--filter", f"reference={tag}")


def settings(tag: str) -> dict[str, Any]:
    """What an image says of itself: ``Entrypoint``, ``Cmd``, ``User``, ``Healthcheck`` and so on."""
    described: dict[str, Any] = json.loads(buildah("inspect", "--type", "image", tag))
    return dict(described["Docker"]["config"])


def run(container: str, command: Sequence[str], *options: str) -> list[str]:
    """The command line that runs a command in a container."""
    return [str(program("buildah")), "run", *ISOLATION, *options, container, "--", *command]


def _pip(folder: Path) -> tuple[Path, list[str]]:
    """This machine's configuration of pip as one file, and the files and folders that it names."""
    listed = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True
    ).stdout
    values: dict[str, str] = {}
    for line in listed.splitlines():
        name, _, value = line.partition("=")
        section, _, key = name.partition(".")
        if section in ("global", "install", ":env:"):
            values[key] = value.strip("'\"")
    file = folder / "pip.conf"
    file.write_text("[global]\n" + "".join(f"{key} = {value}\n" for key, value in values.items()))
    words = [word for value in values.values() for word in value.split()]
    # The pages of an index lead to files beside it.
    named = {Path(word.removeprefix("file://")).parent for word in words if word.startswith("file:///")}
    named |= {Path(word) if Path(word).is_dir() else Path(word).parent for word in words if word.startswith("/")}
    return file, sorted(str(place) for place in named if place.is_dir())


def described(composition: dict[str, Any], name: str, folder: Path) -> tuple[list[str], list[str]]:
    """The command of a service of a compose file, and the options of buildah that give it what the file says."""
    service = composition["services"][name]
    options = [word for pair in service.get("environment", {}).items() for word in ("--env", "=".join(pair))]
    for mount in service.get("volumes", []):
        source = str((folder / mount["source"]).resolve()) if mount["type"] == "bind" else mount["source"]
        options += ["--volume", f"{source}:{mount['target']}{':ro' if mount.get('read_only') else ''}"]
    return service["command"], [*options, "--workingdir", service["working_dir"]]
