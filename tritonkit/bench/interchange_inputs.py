"""The input data of a study, which other tools are to send as well."""

from __future__ import annotations

from pathlib import Path

from tritonkit.bench.records import Record

FOLDER = "inputs"


def input_data(record: Record, inputs: Path) -> Path | None:
    """The file that perf_analyzer was given for a point; None where the point does not tell.

    Args:
        record: the point.
        inputs: the folder of the study's input data, wherever the study is now.
    """
    for repeat in record.repeats:
        for line in repeat.argv:
            if "--input-data" in line[:-1]:
                return inputs / Path(line[line.index("--input-data") + 1]).name
    return None
