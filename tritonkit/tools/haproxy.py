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
# What the gateway's script and its page of metrics need, and how `haproxy -vv` says that they are built in.
_FEATURES = {
    "Lua": r"^Feature list.*\+LUA\b",
    "OpenSSL": r"^Feature list.*\+OPENSSL\b",
    "a Prometheus exporter": "prometheus-exporter",
}
# Debian keeps it there, which is not on every user's PATH.
_SYSTEM_FOLDERS = ("/usr/local/sbin", "/usr/sbin")


def located() -> Path | None:
    """Where HAProxy is, whether or not it can serve as the gateway; None where it is not installed."""
    found = shutil.which("haproxy", path=os.pathsep.join((os.environ.get("PATH", os.defpath), *_SYSTEM_FOLDERS)))
    return Path(found) if found else None


def find() -> Path:
    """The HAProxy of this machine.

    Raises:
        ToolMissing: there is none, or it is too old, or it lacks a part that the gateway needs.
    """
    binary = located()
    if binary is None:
        raise ToolMissing("several servers need a gateway, and HAProxy is not installed", hint=INSTALL_HINT)
    try:
        words = run([str(binary), "-vv"], timeout=30)
    except CommandFailed as error:
        raise ToolMissing(f"{binary} does not run: {error.args[0]}", hint=INSTALL_HINT) from error
    stated = re.match(r"HAProxy version (\d+)\.(\d+)", words)
    version = (int(stated[1]), int(stated[2])) if stated else (0, 0)
    if version < OLDEST:
        raise ToolMissing(
            f"{binary} is too old: {words.partition(chr(10))[0]}",
            hint=f"The gateway needs HAProxy {OLDEST[0]}.{OLDEST[1]} or later.",
        )
    lacking = [name for name, pattern in _FEATURES.items() if not re.search(pattern, words, re.MULTILINE)]
    if lacking:
        raise ToolMissing(f"{binary} was built without {' and '.join(lacking)}", hint=INSTALL_HINT)
    return binary
