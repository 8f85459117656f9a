"""A study as command lines of AIPerf, NVIDIA's successor of perf_analyzer for LLMs, with the requests that they send.

AIPerf knows neither Triton's protocol nor the kinds of tensors. It replays whole request bodies (its data set type
``inputs_json``), and takes a string out of each answer (the endpoint type ``template``): here the model's name.
"""

from __future__ import annotations

import base64
import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from tritonkit.bench.interchange_inputs import input_data
from tritonkit.bench.records import Record, Study
from tritonkit.bench.report_provenance import model_configuration
from tritonkit.client.values import DTYPES
from tritonkit.errors import BenchmarkFailed

SCRIPT = "aiperf.sh"
_SECONDS = 10
# Triton's JSON has no numbers of these.
_UNSPEAKABLE = ("FP16", "BF16")


def write(study: Study, inputs: Path, folder: Path, url: str) -> Path:
    """Write a shell script with a command line for each level, and the requests of each model and batch size.

    Args:
        study: what to measure.
        inputs: the folder of the input data that perf_analyzer was given.
        folder: where to write; made if it is not there.
        url: the server's HTTP address.

    Returns:
        The script.

    Raises:
        BenchmarkFailed: the study does not hold the input data or the models' configurations, or they cannot be said
            in JSON; a file cannot be written.
    """
    lines = ["#!/bin/sh", f"# {' '.join(study.name.split())}, as tritonkit measured it", "set -e"]
    bodies: dict[str, str] = {}
    for record in study.records:
        rate = record.load.kind == "request_rate"
        if record.together or record.protocol != "http" or not (rate or record.load.kind == "concurrency"):
            lines.append(f"# left out: {record.label}: AIPerf sends HTTP to one model, by concurrency or by rate")
            continue
        name = f"{quote(record.model, safe=' ')}-b{record.batch_size}.json"
        if name not in bodies:
            bodies[name] = json.dumps({"data": _requests(study, record, inputs)}) + "\n"
        lines.append(shlex.join(argv(record, name, url)))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in bodies.items():
            (folder / name).write_text(text, encoding="utf-8")
        script = folder / SCRIPT
        script.write_text("\n".join(lines) + "\n", encoding="utf-8")
        script.chmod(0o755)
    except OSError as error:
        raise BenchmarkFailed(f"{error.filename or folder}: cannot be written: {error.strerror}") from error
    return script


def argv(record: Record, requests: str, url: str) -> list[str]:
    """The command line for one level.

    Args:
        record: the level.
        requests: the file of request bodies.
        url: the server's HTTP address.
    """
    line = ["aiperf", "profile", "--model", record.model, "--url", url]
    line += ["--custom-endpoint", f"/v2/models/{quote(record.model, safe='')}/infer"]
    line += ["--endpoint-type", "template", "--extra-inputs", "payload_template:{}"]
    line += ["--extra-inputs", "response_field:model_name"]
    line += ["--custom-dataset-type", "inputs_json", "--input-file", requests, "--tokenizer", "builtin"]
    if record.load.kind == "concurrency":
        line += ["--concurrency", f"{record.load.value:g}"]
    else:
        line += [
            "--request-rate",
            f"{record.load.value:g}",
            "--arrival-pattern",
            record.load.distribution or "constant",
        ]
    return [*line, "--benchmark-duration", str(_SECONDS), "--output-artifact-dir", f"aiperf/{record.label}"]


def _requests(study: Study, record: Record, inputs: Path) -> list[dict[str, Any]]:
    """The bodies that perf_analyzer sent, as AIPerf's sessions of one request each."""
    configuration = model_configuration(study, record)
    file = input_data(record, inputs)
    if configuration is None or file is None:
        raise BenchmarkFailed(f"{study.name}: it does not tell what {record.model} takes, or what was sent to it")
    try:
        steps = json.loads(file.read_text(encoding="utf-8"))["data"]
    except (OSError, ValueError, KeyError) as error:
        raise BenchmarkFailed(f"{file}: the input data of {record.model} cannot be read: {error}") from error
    types = {tensor["name"]: tensor["data_type"].removeprefix("TYPE_") for tensor in configuration["input"]}
    batched = int(configuration.get("max_batch_size", 0)) > 0
    count = record.batch_size if batched else 1
    sessions = []
    for index in range(len(steps)):
        items = [steps[(index + offset) % len(steps)] for offset in range(count)]
        tensors = [
            _tensor(record.model, name, types[name], [each[name] for each in items], batched) for name in items[0]
        ]
        sessions.append({"session_id": str(index), "payloads": [{"inputs": tensors}]})
    return sessions


def _tensor(model: str, name: str, kind: str, entries: Sequence[Mapping[str, Any]], batched: bool) -> dict[str, Any]:
    """One input as the JSON of Triton's HTTP protocol."""
    import numpy as np

    kind = "BYTES" if kind == "STRING" else kind
    if kind in _UNSPEAKABLE:
        raise BenchmarkFailed(f"{model}: input {name} is {kind}, which Triton's JSON cannot hold")
    values: list[Any] = []
    for entry in entries:
        raw = base64.b64decode(entry["content"]["b64"])
        values += _texts(model, name, raw) if kind == "BYTES" else np.frombuffer(raw, DTYPES[kind]).tolist()
    shape = [len(entries), *entries[0]["shape"]] if batched else list(entries[0]["shape"])
    return {"name": name, "datatype": kind, "shape": shape, "data": values}


def _texts(model: str, name: str, raw: bytes) -> list[str]:
    """The strings of a BYTES tensor: each with its length in front, in four bytes."""
    found = []
    while raw:
        size = int.from_bytes(raw[:4], "little")
        try:
            found.append(raw[4 : 4 + size].decode())
        except UnicodeDecodeError:
            reason = "is sent bytes that are no text, which Triton's JSON cannot hold"
            raise BenchmarkFailed(f"{model}: input {name} {reason}") from None
        raw = raw[4 + size :]
    return found
