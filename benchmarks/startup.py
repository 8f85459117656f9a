"""What tritonkit adds to a start: ``up`` against a bare tritonserver, ``--help`` against a bare Typer program.

Run from the root of the repository::

    python benchmarks/startup.py [REPOSITORY] [--repeats 5] [--limit 0.3]

The contestants take turns within one run, so that a slow spell of the machine meets them all; the medians go
into a Markdown table. The difference is the median of those within each turn. With ``--limit``, the exit code
is 1 when ``up`` adds more than that many seconds. A bare tritonserver is started with the flags, the environment
and the backend directory that ``tritonkit up`` would use, and asked every 20 ms whether it is ready, as a shell
script would.
"""

from __future__ import annotations

import argparse
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from tritonkit import serve
from tritonkit.client.endpoint import Endpoint

PROGRAM = Path(sys.executable).with_name("tritonkit")
# What a start may cost more than that of tritonserver alone, in seconds.
TARGET = 0.3
FREE_PORTS = {"http": 0, "grpc": 0, "metrics": 0}
BARE_TYPER = """
import typer
from typing import Annotated
app = typer.Typer()
@app.command()
def one(name: Annotated[str, typer.Argument(help="A name.")]) -> None: "A command."
@app.command()
def two(name: Annotated[str, typer.Argument(help="A name.")]) -> None: "Another command."
app()
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("repository", nargs="?", type=Path, default=Path("model_repository"))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--limit", type=float, metavar="SECONDS", help="exit 1 when `up` adds more than this")
    arguments = parser.parse_args()
    repository = arguments.repository.resolve()
    with tempfile.TemporaryDirectory(prefix="tritonkit-startup-") as folder:
        project = Path(folder)
        starts = alternate(
            [lambda: bare_start(project, repository), lambda: tritonkit_start(project, repository)],
            arguments.repeats,
        )
    helps = alternate(
        [lambda: run([sys.executable, "-c", BARE_TYPER, "--help"]), lambda: run([str(PROGRAM), "--help"])],
        arguments.repeats,
    )
    print(f"Medians of {arguments.repeats}, taking turns; {len(os.sched_getaffinity(0))} cores.\n")
    print("| | bare | tritonkit | difference | ratio |")
    print("|---|---:|---:|---:|---:|")
    print(row(f"`up` until {len(list(repository.glob('*/')))} models are READY", starts))
    print(row("`--help`, against a Typer program of two commands", helps))
    added, limit = difference(starts), TARGET if arguments.limit is None else arguments.limit
    print(f"\n`up` adds {added:.2f} s to a start: {'above' if added > limit else 'within'} {limit:g} s.")
    if arguments.limit is not None and added > limit:
        raise SystemExit(1)


def alternate(contestants: Sequence[Callable[[], float]], repeats: int) -> list[list[float]]:
    """The times of each turn, after one that does not count."""
    return [[contestant() for contestant in contestants] for _ in range(repeats + 1)][1:]


def difference(turns: Sequence[Sequence[float]]) -> float:
    """What the second of two contestants takes longer than the first, as the median of all turns."""
    return statistics.median(ours - bare for bare, ours in turns)


def bare_start(project: Path, repository: Path) -> float:
    """Seconds from exec to readiness of tritonserver alone."""
    request = serve.Request(repository=repository, project=project, ports=FREE_PORTS)
    (spec,) = serve.plan(request, serve.survey(request)).processes
    spec.cwd.mkdir(parents=True, exist_ok=True)
    endpoint = Endpoint(spec.addresses["http"])
    with (project / "bare.log").open("wb") as log:
        began = time.monotonic()
        process = subprocess.Popen(
            spec.argv, env=dict(spec.env), cwd=spec.cwd, stdout=log, stderr=log, start_new_session=True
        )
        try:
            while not endpoint.ready():
                assert process.poll() is None, (project / "bare.log").read_text()
                time.sleep(0.02)
            return time.monotonic() - began
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait()


def tritonkit_start(project: Path, repository: Path) -> float:
    """Seconds from exec to the line ``ready in ...`` of ``tritonkit up``."""
    ports = [word for service in FREE_PORTS for word in (f"--{service}-port", "0")]
    began = time.monotonic()
    with (
        (project / "up.log").open("wb") as log,
        subprocess.Popen(
            [str(PROGRAM), "up", str(repository), *ports],
            cwd=project,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        ) as process,
    ):
        assert process.stdout is not None
        try:
            line = process.stdout.readline()
            took = time.monotonic() - began
            assert line.startswith("ready in"), (project / "up.log").read_text()
            return took
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait()


def run(argv: Sequence[str]) -> float:
    """Seconds that a command takes to its end."""
    began = time.monotonic()
    subprocess.run(argv, check=True, stdout=subprocess.DEVNULL)
    return time.monotonic() - began


def row(name: str, turns: Sequence[Sequence[float]]) -> str:
    """One line of the table."""
    bare, ours = (statistics.median(times) for times in zip(*turns, strict=True))
    return f"| {name} | {bare:.2f} s | {ours:.2f} s | {difference(turns):+.2f} s | {ours / bare:.2f} |"


if __name__ == "__main__":
    main()
