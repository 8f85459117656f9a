"""Where figures are read from: a study's folder, or CSV files of perf_analyzer in its place."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tritonkit.bench import interchange_perf_analyzer
from tritonkit.bench.records import Study, load
from tritonkit.errors import BenchmarkFailed


def read(paths: Sequence[Path], *, model: str = "") -> Study:
    """The study in one folder, or in perf_analyzer's CSV files.

    Args:
        paths: one folder, or one or more CSV files.
        model: the model that the CSV files are about; empty to take each file's name.

    Raises:
        BenchmarkFailed: there is no study there, or it is mixed.
    """
    folders = [path for path in paths if path.is_dir()]
    if folders and len(paths) > 1:
        raise BenchmarkFailed(
            f"one study's folder at a time, or CSV files of perf_analyzer; got {', '.join(map(str, paths))}",
            hint="Two studies are held against each other by: tritonkit compare BEFORE AFTER",
        )
    if folders:
        return load(folders[0])
    missing = [str(path) for path in paths if not path.is_file()]
    if missing:
        raise BenchmarkFailed(
            f"{missing[0]}: no such file or folder", hint="Give the folder that tritonkit bench wrote (--output)."
        )
    return interchange_perf_analyzer.read(paths, model=model)
