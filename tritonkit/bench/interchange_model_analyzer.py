"""A study as the ``config.yaml`` of Triton's Model Analyzer (``model-analyzer profile -f config.yaml``). Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tritonkit.bench.interchange_inputs import input_data
from tritonkit.bench.objective import Limit
from tritonkit.bench.records import Record, Study

# Keys of a spec that are no fields of Triton's ModelConfig: a repository that is built does not know them.
_OWN = frozenset({"source", "versions", "files", "configs", "export", "ensemble", "samples"})
_STEP = re.compile(r"([^.\[\]]+)|\[(\d+)\]")
_LOADS = ("concurrency", "request_rate")


def config(study: Study, inputs: Path, repository: str, limits: Sequence[Limit] = ()) -> str:
    """The YAML. What Model Analyzer cannot say is named in comments at its head.

    Args:
        study: what to measure: models, loads, batch sizes and the axes of models' configurations.
        inputs: the folder of the input data that perf_analyzer was given.
        repository: the model repository to profile.
        limits: of which Model Analyzer knows upper ones of p99 and lower ones of throughput.
    """
    import yaml

    left_out: list[str] = []
    document: dict[str, Any] = {"model_repository": repository, "run_config_search_disable": True}
    alone = [record for record in study.records if not record.together]
    if len(alone) < len(study.records):
        left_out.append("models that are loaded together")
    kinds = list(dict.fromkeys(record.load.kind for record in alone))
    kind = next((each for each in kinds if each in _LOADS), "")
    left_out += [f"loads by {each}: a configuration has one kind" for each in kinds if each != kind]
    alone = [record for record in alone if record.load.kind == kind]
    protocols = list(dict.fromkeys(record.protocol for record in alone))
    document["client_protocol"] = protocols[0] if protocols else "http"
    left_out += [f"protocol {protocol}: a configuration has one" for protocol in protocols[1:]]
    for limit in limits:
        if limit.metric == "latency_p99" and limit.relation.startswith("<") and limit.bound >= 1000:
            document.setdefault("constraints", {})["perf_latency_p99"] = {"max": int(limit.bound / 1000)}
        elif limit.metric == "throughput" and limit.relation.startswith(">"):
            document.setdefault("constraints", {})["perf_throughput"] = {"min": int(limit.bound)}
        else:
            left_out.append(f"{limit.text}: constraints are p99 below whole milliseconds, or throughput above")
    document["profile_models"] = {
        model: _model([record for record in alone if record.model == model], inputs, left_out)
        for model in dict.fromkeys(record.model for record in alone)
    }
    head = [f"# {study.name}, as tritonkit measured it", "# model-analyzer profile -f THIS_FILE"]
    head += [f"# left out: {text}" for text in dict.fromkeys(left_out)]
    text = "\n".join(" ".join(line.split()) for line in head)
    return f"{text}\n{yaml.safe_dump(document, sort_keys=False, allow_unicode=True)}"


def _model(records: Sequence[Record], inputs: Path, left_out: list[str]) -> dict[str, Any]:
    """What is varied for one model, and what perf_analyzer is told beside it."""
    model = records[0].model
    loads = [record.load for record in records]
    parameters: dict[str, Any] = {"batch_sizes": sorted({record.batch_size for record in records})}
    # Model Analyzer takes whole numbers only.
    parameters[loads[0].kind] = sorted({max(round(load.value), 1) for load in loads})
    flags: dict[str, Any] = {}
    if any(load.distribution == "poisson" for load in loads):
        flags["request-distribution"] = "poisson"
        left_out += [f"{model}: constant arrivals: one distribution a model"] * any(
            load.distribution == "constant" for load in loads
        )
    memories = {record.shared_memory for record in records}
    if memories == {"system"}:
        flags["shared-memory"] = "system"
    elif len(memories) > 1:
        left_out.append(f"{model}: shared memory: with or without it, not both")
    data = next((found for record in records if (found := input_data(record, inputs))), None)
    if data:
        flags["input-data"] = str(data)
    entry: dict[str, Any] = {"parameters": parameters}
    fields = dict(_fields(model, records, left_out))
    if fields:
        entry["model_config_parameters"] = fields
    if flags:
        entry["perf_analyzer_flags"] = flags
    return entry


def _fields(model: str, records: Sequence[Record], left_out: list[str]) -> Iterator[tuple[str, Any]]:
    """Each field of the ModelConfig that is varied; several values are a list of them, which Model Analyzer sweeps."""
    start = f"models.{model}."
    chosen: dict[str, list[Any]] = {}
    for record in records:
        values: dict[str, dict[str, Any]] = {}
        for path, value in record.configuration.items():
            field = re.split(r"[.\[]", path.removeprefix(start), maxsplit=1)[0]
            if not path.startswith(start) or field in _OWN:
                left_out.append(f"{path}: not a field of the model's configuration")
            else:
                values.setdefault(field, {})[path.removeprefix(start)] = value
        for field, parts in values.items():
            found = _short(field, _built(parts)[field])
            if found in (None, False):
                left_out.append(f"{start}{field}: {json.dumps(found)}: what a repository says cannot be taken away")
            elif found not in chosen.setdefault(field, []):
                chosen[field].append(found)
    for field, several in chosen.items():
        if several:
            yield field, several if len(several) > 1 else several[0]


def _short(field: str, value: Any) -> Any:
    """A value in a spec's short form, in full."""
    if field == "instance_group" and isinstance(value, int) and not isinstance(value, bool):
        return [{"count": value}]
    return {} if value is True else value


def _built(parts: Mapping[str, Any]) -> dict[str, Any]:
    """Nested values from dotted paths: ``instance_group[0].count: 2`` is ``{instance_group: [{count: 2}]}``."""
    whole: dict[Any, Any] = {}
    for path, value in parts.items():
        steps: list[Any] = [int(index) if index else name for name, index in _STEP.findall(path)]
        place = whole
        for step in steps[:-1]:
            place = place.setdefault(step, {})
        place[steps[-1]] = value
    return {name: _listed(value) for name, value in whole.items()}


def _listed(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    inner = {name: _listed(each) for name, each in value.items()}
    numbered = bool(inner) and all(isinstance(name, int) for name in inner)
    return [inner[index] for index in sorted(inner)] if numbered else inner
