"""``top``: what the deployment of this folder does, live."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Annotated

import typer

from tritonkit.cli.console import output, print_json
from tritonkit.cli.target import CaCertificate, TokenFile, named
from tritonkit.errors import TritonkitError

if TYPE_CHECKING:
    from tritonkit.serve.top import Sample, Sampler, Target

REDRAWS_PER_SECOND = 4
KEY_PERIOD = 0.1


def register(app: typer.Typer) -> None:
    """Add the command to the program."""
    app.command(epilog="Example: tritonkit top --interval 1")(top)


def top(
    interval: Annotated[
        float, typer.Option(min=0.1, metavar="SECONDS", help="From one sample to the next; rates are over this time.")
    ] = 2.0,
    once: Annotated[bool, typer.Option("--once", help="Print one sample as tables, and end.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one sample as JSON, and end.")] = False,
    url: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[https://]HOST:PORT", help="A server to look at instead, such as one in a container; repeatable."
        ),
    ] = None,
    token_file: TokenFile = None,
    ca_certificate: CaCertificate = None,
) -> None:
    """Show live what runs in this folder: GPUs, processes, and every model's requests, times and failures."""
    from tritonkit.serve.gpu_load import GpuMeter
    from tritonkit.serve.top import Sampler

    if not url and (token_file or ca_certificate):
        raise typer.BadParameter("the servers of this folder are looked at directly, and ask for nothing: give --url")
    targets = _named(url, token_file, ca_certificate) if url else _deployed
    with closing(GpuMeter()) as meter:
        sampler = Sampler(targets, meter)
        if as_json:
            print_json(asdict(_after(interval, sampler)))
        elif once or not (sys.stdout.isatty() and sys.stdin.isatty()):
            from tritonkit.cli.top_tables import tables

            output().print(tables(_after(interval, sampler)))
        else:
            _live(sampler, interval, ", ".join(url) if url else str(Path.cwd()))


def _named(
    addresses: Sequence[str], token_file: Path | None, ca_certificate: Path | None
) -> Callable[[], Sequence[Target]]:
    from tritonkit.serve.top import Target

    servers = {one.address: one for one in (named(address, token_file, ca_certificate) for address in addresses)}
    targets = [Target(name=name, kind="server", http=name, access=one.access) for name, one in servers.items()]
    return lambda: targets


def _deployed() -> Sequence[Target]:
    from tritonkit import serve
    from tritonkit.serve.top import target

    return [target(server) for server in serve.running(Path.cwd()).servers]


def _after(interval: float, sampler: Sampler) -> Sample:
    sampler.sample()
    time.sleep(interval)
    return sampler.sample()


def _live(sampler: Sampler, interval: float, what: str) -> None:
    from rich.console import Console, Group
    from rich.live import Live

    from tritonkit.cli.keys import keys
    from tritonkit.cli.top_tables import heading, tables

    sampling = _Sampling(sampler, interval)
    console = Console(highlight=False, emoji=False)
    with (
        keys() as key,
        Live(
            Group("looking"), console=console, screen=True, refresh_per_second=REDRAWS_PER_SECOND, transient=True
        ) as live,
    ):
        sampling.start()
        shown = None
        while key(KEY_PERIOD) not in ("q", "Q"):
            if sampling.fault is not None:
                raise sampling.fault
            if sampling.latest is not None and sampling.latest is not shown:
                shown = sampling.latest
                live.update(Group(heading(shown, what), "", tables(shown)))


class _Sampling(Thread):
    """Takes a sample every ``interval`` seconds; a server that hangs holds up this thread, and no key."""

    def __init__(self, sampler: Sampler, interval: float) -> None:
        super().__init__(daemon=True)
        self._sampler = sampler
        self._interval = interval
        self.latest: Sample | None = None
        self.fault: TritonkitError | None = None

    def run(self) -> None:
        """Until the program ends, or there is nothing left to look at."""
        try:
            while True:
                began = time.monotonic()
                self.latest = self._sampler.sample()
                time.sleep(max(0.0, began + self._interval - time.monotonic()))
        except TritonkitError as error:
            self.fault = error
