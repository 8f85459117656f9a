"""HAProxy, the program that serves as the gateway: where it is, and whether it can."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

from tritonkit.errors import CommandFailed, ToolMissing
from tritonkit.tools.commands import run

INSTALL_HINT = "Install it with: apt-get install haproxy"
OLDEST = (2, 6)
# What the gateway's script, its certificates and its page of metrics need, as `haproxy -vv` names what is built in.
_PARTS = {"Lua": r"\+LUA\b", "OpenSSL": r"\+OPENSSL\b", "the Prometheus exporter": r"\bprometheus-exporter\b"}
# Debian keeps it there, which is not on every user's PATH.
_SYSTEM_FOLDERS = ("/usr/local/sbin", "/usr/sbin")


def find() -> Path:
    """The HAProxy of this machine.

    Raises:
        ToolMissing: there is none, or it is too old, or it lacks a part that the gateway needs.
    """
    places = os.pathsep.join((os.environ.get("PATH", os.defpath), *_SYSTEM_FOLDERS))
    found = shutil.which("haproxy", path=places)
    if found is None:
        raise ToolMissing("HAProxy, the gateway before several servers, is not installed", hint=INSTALL_HINT)
    words = _about(Path(found))
    stated = re.match(r"HAProxy version (\d+)\.(\d+)", words)
    if stated is None or (int(stated[1]), int(stated[2])) < OLDEST:
        oldest = ".".join(map(str, OLDEST))
        raise ToolMissing(f"{found} is {_first(words)}: the gateway needs {oldest} or later", hint=INSTALL_HINT)
    lacking = [name for name, pattern in _PARTS.items() if not re.search(pattern, words)]
    if lacking:
        raise ToolMissing(f"{found} was built without {' and '.join(lacking)}", hint=INSTALL_HINT)
    return Path(found)


def version(binary: Path) -> str:
    """How an HAProxy names itself.

    Raises:
        ToolMissing: it does not run.
    """
    return _first(_about(binary))


def _about(binary: Path) -> str:
    try:
        return run([str(binary), "-vv"], timeout=30)
    except CommandFailed as error:
        raise ToolMissing(f"{binary} does not run: {error.args[0]}", hint=INSTALL_HINT) from error


def _first(words: str) -> str:
    return words.partition("\n")[0].partition(" - ")[0]
