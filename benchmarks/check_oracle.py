"""2,000 random configurations, asked of both tritonkit check and the real tritonserver.

    python benchmarks/check_oracle.py [--examples 2000] [--seed 0] [--processes 2]

Prints every disagreement, and exits 1 if there was one. Takes about half a second an example and process.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from configurations import configurations, files
from hypothesis import HealthCheck, Phase, given, seed, settings
from judging import disagreement
from oracle import oracle


def ask(job: tuple[int, int]) -> tuple[Counter[str], list[str]]:
    """Run one share of the examples; how often each outcome came, and the disagreements."""
    number, examples = job
    outcomes: Counter[str] = Counter()
    disagreements: list[str] = []
    with oracle() as judge:

        @seed(number)
        @settings(
            max_examples=examples,
            deadline=None,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(config=configurations())
        def run(config: Any) -> None:
            before = judge.loaded
            said = disagreement(judge, config, files())
            outcomes["loaded" if judge.loaded > before else "refused"] += 1
            if said:
                disagreements.append(said)
                print(said, flush=True)

        run()
        outcomes["server crashes"] = judge.crashes
    return outcomes, disagreements


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--examples", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args()
    started = time.monotonic()
    share = -(-options.examples // options.processes)
    jobs = [(options.seed + number, share) for number in range(options.processes)]
    with multiprocessing.get_context("spawn").Pool(options.processes) as pool:
        results = pool.map(ask, jobs, chunksize=1)
    outcomes = sum((each for each, _ in results), Counter[str]())
    disagreements = [said for _, each in results for said in each]
    asked = outcomes["loaded"] + outcomes["refused"]
    print(
        f"{asked} configurations in {time.monotonic() - started:.0f} s: {outcomes['loaded']} loaded, "
        f"{outcomes['refused']} refused ({outcomes['server crashes']} of them crashed the server); "
        f"{len(disagreements)} disagreements"
    )
    return 1 if disagreements else 0


if __name__ == "__main__":
    sys.exit(main())
