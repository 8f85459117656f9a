"""How a process that runs is asked to end, and how it is killed, each in the way of its kind; neither waits for it."""

from __future__ import annotations

import subprocess
import threading

from tritonkit.serve.processes import GatewayCheck, ProcessSpec, ServerCheck


def ask(spec: ProcessSpec, child: subprocess.Popen[bytes], ended: threading.Event) -> None:
    """Ask a process to end in order; ``ended`` is set once it has."""
    if not isinstance(spec.check, GatewayCheck):
        child.terminate()
        return
    from tritonkit.serve import haproxy

    threading.Thread(target=haproxy.stop, args=(spec.check, child.send_signal, ended), daemon=True).start()


def force(spec: ProcessSpec, child: subprocess.Popen[bytes]) -> None:
    """Kill a process; one that is a client of an MPS daemon is let go by that before."""
    if not (isinstance(spec.check, ServerCheck) and spec.check.share and spec.check.share.pipe_directory):
        child.kill()
        return
    from tritonkit.serve import mps

    def let_go_and_kill() -> None:
        mps.let_go(spec)
        child.kill()

    # The daemon is asked first, which may take its time; whoever calls has none to lose.
    threading.Thread(target=let_go_and_kill, daemon=True).start()
