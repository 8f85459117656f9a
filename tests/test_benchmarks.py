"""What the benchmarks do beside measuring: they take nothing away that is not theirs."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from serving import wait_for

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
# Makes the region named by its second argument, and uses the one that the first names, as perf_analyzer would.
USES = """
import mmap, sys, time
held = []
for name in sys.argv[1:]:
    file = open(name, "a+b")
    file.truncate(4096)
    held.append(mmap.mmap(file.fileno(), 4096))
print("mapped", flush=True)
time.sleep(60)
"""


def test_the_isolation_benchmark_removes_its_own_shared_memory_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)
    import isolation

    prefix = isolation.SHARED_MEMORY / f"mobilenet_v2_in_{os.getpid()}"
    there_before, made, untouched = (Path(f"{prefix}_{number}") for number in range(3))
    there_before.write_bytes(b"of another")
    try:
        line = [sys.executable, "-c", USES, str(there_before), str(made)]
        with isolation.running(line, {}, tmp_path / "log") as process:
            wait_for(lambda: (tmp_path / "log").read_text() == "mapped\n")
            untouched.write_bytes(b"of another that came later")
            assert made in isolation.mapped(process.pid)
        assert process.poll() is not None
        assert [region.exists() for region in (there_before, made, untouched)] == [True, False, True]
        assert isolation.mapped(process.pid) == set()
    finally:
        for region in (there_before, made, untouched):
            region.unlink(missing_ok=True)
