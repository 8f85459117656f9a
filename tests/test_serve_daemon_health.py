"""An MPS server that its clients have lost: told by processes, of which a number alone is no proof."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tritonkit.serve import daemon_health
from tritonkit.serve.daemon_health import DaemonHealth
from tritonkit.serve.processes import DaemonCheck

# Answers as NVIDIA's program does, from the files beside it.
PROGRAM = f"""#!{sys.executable}
import pathlib, sys
command, *rest = sys.stdin.read().split()
told = pathlib.Path(__file__).with_name("_".join([command, *rest]))
print(told.read_text() if told.exists() else f'Unknown command "{{command}}"')
"""
SERVER, NEXT_CLIENT, OLD_CLIENT = 100, 201, 200


class Machine:
    """Processes by number, each with the time of its begin, and what the daemon says of them."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        self.processes: dict[int, int] = {}
        self._folder = folder
        program = folder / "nvidia-cuda-mps-control"
        program.write_text(PROGRAM)
        program.chmod(0o755)
        patch.setattr(daemon_health, "ASK_PERIOD", 0.0)
        patch.setattr(daemon_health, "start_ticks", self.processes.get)
        patch.setattr(daemon_health, "is_running", lambda pid, began: self.processes.get(pid) == began)
        self.health = DaemonHealth(DaemonCheck(program, folder, 0, "GPU-0"))

    def fault(self, *clients: int) -> str | None:
        """What is wrong, when the daemon names these clients of its server."""
        (self._folder / "get_server_list").write_text(f"{SERVER}")
        (self._folder / f"get_server_status_{SERVER}").write_text("ACTIVE")
        (self._folder / f"get_client_list_{SERVER}").write_text("\n".join(map(str, clients)))
        assert self.health.answers()
        return self.health.fault()


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    found = Machine(tmp_path, monkeypatch)
    found.processes.update({SERVER: 1, OLD_CLIENT: 2})
    assert found.fault(OLD_CLIENT) is None
    return found


def test_a_server_that_took_the_number_of_one_that_nobody_misses(machine: Machine) -> None:
    del machine.processes[OLD_CLIENT]
    machine.processes.update({SERVER: 7, NEXT_CLIENT: 8})
    assert machine.fault(NEXT_CLIENT) is None
    del machine.processes[SERVER]
    assert machine.health.fault() == f"lost its MPS server {SERVER}"


def test_a_server_that_took_the_number_of_one_whose_client_still_runs(machine: Machine) -> None:
    machine.processes.update({SERVER: 7, NEXT_CLIENT: 8})
    assert machine.fault(NEXT_CLIENT) == f"lost its MPS server {SERVER}"


def test_another_process_that_took_the_number_of_a_server(machine: Machine) -> None:
    machine.processes[SERVER] = 7
    assert machine.health.fault() == f"lost its MPS server {SERVER}"


def test_another_process_that_took_the_number_of_a_client(machine: Machine) -> None:
    machine.processes[OLD_CLIENT] = 7
    del machine.processes[SERVER]
    assert machine.health.fault() is None
