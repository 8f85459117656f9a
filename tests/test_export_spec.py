"""The forms of ``source`` and the keys of ``export``: what is taken, what is refused, and in which words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from test_surface import accepted

from tritonkit.errors import SpecError
from tritonkit.spec.export import FileSource, ModelSource, TorchSource
from tritonkit.spec.loading import load
from tritonkit.spec.schema import Model


def model(folder: Path, **keys: str) -> Model:
    text = "".join(f"    {key}: {value}\n" for key, value in keys.items())
    (folder / "spec.yaml").write_text(f"version: 1\nmodels:\n  m:\n{text}")
    loaded = load([folder / "spec.yaml"], [], {})
    loaded.faults.raise_if_any()
    return loaded.spec.models["m"]


@pytest.mark.parametrize(
    ("source", "kind"),
    [
        ("m.onnx", str),
        ("hf://org/repo/m.onnx", str),
        (f"{{file: m.onnx, sha256: '{'a' * 64}'}}", FileSource),
        ('{torch: "package.module:factory", arguments: {width: 3}, weights: w.pt}', TorchSource),
        ('{torch: "module:Class.method", weights: {file: w.pt}, example: e.npz}', TorchSource),
        ("{model: other}", ModelSource),
    ],
)
def test_forms_of_a_source(tmp_path: Path, source: str, kind: type[Any]) -> None:
    assert isinstance(model(tmp_path, source=source).source, kind)
    assert accepted({"version": 1, "models": {"m": {"source": yaml.safe_load(source)}}})
    assert accepted({"version": 1, "models": {"m": {"versions": {"3": yaml.safe_load(source)}}}})


FORMS = "expected a path or URL, {file: ...}, {torch: package.module:factory} or {model: ...}"


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"source": "3"}, f"4: models.m.source: {FORMS}, found 3"),
        ({"source": "{}"}, f"4: models.m.source: {FORMS}, found a mapping"),
        ({"source": "[m.onnx]"}, f"4: models.m.source: {FORMS}, found a list"),
        ({"source": "{file: a, sha256: short}"}, "4: models.m.source.sha256: expected 64 hexadecimal digits"),
        ({"source": '{torch: "a:b", exmaple: x}'}, "4: models.m.source.exmaple: unknown key; did you mean 'example'?"),
        ({"source": "{torch: a b}"}, "4: models.m.source.torch: expected package.module:factory"),
        ({"source": '{torch: "a:b", weights: 3}'}, "4: models.m.source.weights: expected"),
        (
            {"source": '{torch: "a:b", weights: {fil: x}}'},
            "models.m.source.weights.fil: unknown key; did you mean 'file'?",
        ),
        ({"versions": '{2: {torch: "a:b", exmaple: x}}'}, "models.m.versions.2.exmaple: unknown key; did you mean"),
        (
            {"export": "{precision: FP8}"},
            "5: models.m.export.precision: expected 'FP32', 'FP16' or 'BF16', found 'FP8'",
        ),
        ({"export": "{precison: FP16}"}, "models.m.export.precison: unknown key; did you mean 'precision'?"),
        ({"export": "{compute_capabilities: [89]}"}, "models.m.export.compute_capabilities[0]: expected"),
        ({"export": "{workspace: lots}"}, "models.m.export.workspace: expected a number of bytes, as in 4GiB"),
        ({"export": "{tolerance: {cosin: 1}}"}, "models.m.export.tolerance.cosin: unknown key; did you mean 'cosine'?"),
        ({"export": "{ranges: {x: [1]}}"}, "models.m.export.ranges.x: expected 2 values, found 1"),
        (
            {"export": "{profiles: [{x: {min: [1], opt: [1], mx: [2]}}]}"},
            "models.m.export.profiles[0].x.mx: unknown key; did you mean 'max'?",
        ),
    ],
)
def test_what_is_refused(tmp_path: Path, keys: dict[str, str], words: str) -> None:
    with pytest.raises(SpecError) as caught:
        model(tmp_path, **{"source": "m.onnx", **keys})
    assert words in str(caught.value)


def test_numbers_of_yaml_are_compute_capabilities(tmp_path: Path) -> None:
    made = model(tmp_path, source="m.onnx", export="{compute_capabilities: [8.9, 12.0, '10.3']}")
    assert made.export.compute_capabilities == ("8.9", "12.0", "10.3")
