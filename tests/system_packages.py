"""The programs of the system that tests run: one helper for tests, and (run as a program) their installation.

``program("haproxy")`` in a test gives the program's path. Where it is missing, the test is skipped with the
command that installs it; in CI (``CI=true``) it fails, so that nothing is left out there unseen.

``python tests/system_packages.py`` installs what is missing with apt-get where that needs no password, and says
what to run where it does.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from pathlib import Path

# The package of Debian and Ubuntu that holds each program.
PACKAGES = {
    "haproxy": "haproxy",
    "buildah": "buildah",
    "debootstrap": "debootstrap",
    "chromium": "chromium",
    "docker-compose": "docker-compose",
}
# Where Debian keeps programs for administrators; it is not on every user's PATH.
_SYSTEM_FOLDERS = ("/usr/local/sbin", "/usr/sbin", "/sbin")


def find(name: str) -> Path | None:
    """Where a program is; None where it is not installed."""
    places = os.pathsep.join((os.environ.get("PATH", os.defpath), *_SYSTEM_FOLDERS))
    found = shutil.which(name, path=places)
    return Path(found) if found else None


def program(name: str) -> Path:
    """Where a program is, for a test that cannot do without: it is skipped, or in CI failed, without it."""
    import pytest

    found = find(name)
    if found is None:
        reason = f"{name} is not installed; install it with: apt-get install {PACKAGES[name]}"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    return found


def install() -> None:
    """Install what is missing, where that can be done without a question; never fails."""
    missing = sorted({package for name, package in PACKAGES.items() if find(name) is None})
    if not missing:
        return
    wanted = ["apt-get", "install", "--yes", "--quiet", "--no-install-recommends", *missing]
    become = _administrator()
    if shutil.which("apt-get") is None or become is None:
        print(f"tests of {', '.join(missing)} will be skipped; install these with: sudo {shlex.join(wanted)}")
        return
    print(f"installing {', '.join(missing)} with apt-get")
    for argv in (["apt-get", "update", "--quiet"], wanted):
        done = subprocess.run(
            [*become, "env", "DEBIAN_FRONTEND=noninteractive", *argv],
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            check=False,
        )
        if done.returncode != 0:
            print(f"{shlex.join(argv)} failed:\n{done.stdout[-1000:]}{done.stderr[-1000:]}")


def _administrator() -> list[str] | None:
    """What to put before a command so that an administrator runs it; None where that is not to be had."""
    if os.geteuid() == 0:
        return []
    if shutil.which("sudo") is None:
        return None
    allowed = subprocess.run(["sudo", "-n", "true"], capture_output=True, check=False).returncode == 0
    return ["sudo", "-n"] if allowed else None


if __name__ == "__main__":
    install()
