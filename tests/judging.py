"""What tritonkit and the real server say of the same repository."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from google.protobuf import text_format
from oracle import PYTHON_MODEL, Oracle, Verdict

from tritonkit.modelconfig.rules.rule import Machine
from tritonkit.repository.inspection import BUNDLED, Inspection, inspect_repository

# The server that the oracle runs, on a machine without a GPU.
SERVER = replace(BUNDLED, gpus=0)


def model(name: str, config: str, files: Mapping[str, str | None] | None = None) -> dict[str, str]:
    """The files of a Python model; ``model`` as a content stands for a model that answers anything."""
    held: dict[str, str | None] = {"1/model.py": "model", "config.pbtxt": config, **(files or {})}
    return {
        f"{name}/{path}": PYTHON_MODEL if content == "model" else content
        for path, content in held.items()
        if content is not None
    }


def inspect(files: Mapping[str, str | bytes], machine: Machine = SERVER) -> Inspection:
    """What tritonkit finds in a repository of these files."""
    with tempfile.TemporaryDirectory() as folder:
        for name, content in files.items():
            path = Path(folder) / name
            if name.endswith("/"):
                path.mkdir(parents=True, exist_ok=True)
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content.encode() if isinstance(content, str) else content)
        return inspect_repository(Path(folder), machine)


def foretold(found: Inspection, verdict: Verdict) -> bool:
    """Whether one of the errors found says what the server said."""
    said = " ".join(verdict.said.split())
    return any(" ".join(finding.triton.split()) in said for finding in found.errors if finding.triton)


def disagreement(judge: Oracle, config: Any, others: Mapping[str, str | bytes]) -> str:
    """Asks both about the model ``m``; what they say, where one refuses it and the other does not. Else empty."""
    files = {**others, "m/config.pbtxt": text_format.MessageToString(config)}
    found = [finding for finding in inspect(files).errors if finding.path.split(".")[0].split("[")[0] == "m"]
    verdict = judge.ask(files, "m")
    if verdict.loads != bool(found):
        return ""
    ours = "\n".join(f"{finding.code} {finding.path}: {finding.message}" for finding in found) or "nothing"
    shown = text_format.MessageToString(config, as_one_line=True)
    return f"{shown}\ntritonkit finds: {ours}\nthe server says: {verdict.said or 'loaded'}"
