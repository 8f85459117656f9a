"""How far the memory of tritonserver and of a stub grows under requests, by how much the allocator takes ahead.

Run from the root of the repository, with the extras ``server``, ``cpu`` and ``dev`` installed::

    PYTHONPATH=. python benchmarks/memory_ahead.py --work /tmp/ahead [--requests 40000]

The requests of the soak for ``text`` (STRING, so in a stub) and ``lookup`` (inside tritonserver), by turns, none of
them malformed. ``MALLOC_TOP_PAD_`` is what glibc takes more than it needs; ``tritonkit up`` sets it to 16 MiB where the
user did not. One server for each value, one after the other; a row says how much memory of their own, in MiB, the
processes have gained since the first tenth of the requests.
"""

from __future__ import annotations

import argparse
import os
import shutil
from pathlib import Path

import numpy as np
import tritonclient.grpc as triton
from backends_soak import Kind, ask, repository
from load import server
from server_memory import memory

MIB = 2**20
PADS = (0, 1, 2)
MODELS = ("text", "lookup")
STEPS = 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--requests", type=int, default=40_000)
    arguments = parser.parse_args()
    print(f"{arguments.requests} requests for each row; MiB gained since the first tenth of them\n")
    print("| MiB ahead | process | " + " | ".join(f"{10 * step} %" for step in range(2, STEPS + 1)) + " |")
    print("|---:|---|" + "---:|" * (STEPS - 1))
    for pad in PADS:
        os.environ["MALLOC_TOP_PAD_"] = str(pad * MIB)
        found = grown(arguments.work / str(pad), arguments.requests)
        for process in ("server", "stubs"):
            gains = [f"{each[process] - found[0][process]:.2f}" for each in found[1:]]
            print(f"| {pad} | {process} | " + " | ".join(gains) + " |", flush=True)


def grown(work: Path, requests: int) -> list[dict[str, float]]:
    """The memory after each tenth of the requests."""
    shutil.rmtree(work, ignore_errors=True)
    kinds: list[Kind] = [kind for kind in repository(work / "models", None) if kind.model in MODELS]
    random, found = np.random.default_rng(1), []
    with server(work, work / "models") as deployment, triton.InferenceServerClient(deployment.grpc) as client:
        for _ in range(STEPS):
            for number in range(requests // STEPS):
                words = ask(client, kinds[number % len(kinds)], random, 1, False)
                if not words.startswith("right"):
                    raise RuntimeError(words)
            found.append(memory(deployment))
    return found


if __name__ == "__main__":
    main()
