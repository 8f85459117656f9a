"""Reading a spec: YAML made safe, every fault with its line and path, overlays and variables."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tritonkit.errors import SpecError
from tritonkit.spec import document, overlay
from tritonkit.spec.faults import dotted
from tritonkit.spec.glance import peek
from tritonkit.spec.loading import LoadedSpec, load


def written(folder: Path, text: str, name: str = "spec.yaml") -> Path:
    file = folder / name
    file.write_text(text)
    return file


def loaded(folder: Path, text: str, *assignments: str, **environment: str) -> LoadedSpec:
    return load([written(folder, text)], assignments, environment)


def faults(folder: Path, text: str, *assignments: str) -> list[str]:
    """What is wrong with a spec, without the file's folder."""
    with pytest.raises(SpecError) as caught:
        loaded(folder, text, *assignments).faults.raise_if_any()
    return [str(fault).replace(f"{folder}/", "") for fault in caught.value.faults]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "spec.yaml: the file is empty"),
        ("# only a comment\n", "spec.yaml: the file is empty"),
        ("- 1\n", "spec.yaml:1: expected a mapping with 'version' and 'models', found a list"),
        ("version: 1\nmodels: [\n", "spec.yaml:3: not valid YAML"),
        ("a: 1\n---\nb: 2\n", "spec.yaml:2: not valid YAML"),
        ("version: 1\nversion: 1\n", "spec.yaml:2: version: given twice; it first stands on line 1"),
        ("models:\n  m: {}\n  m: {}\n", "spec.yaml:3: models.m: given twice; it first stands on line 2"),
        ("models: &a [*a]\n", "spec.yaml:1: models[0]: an anchor that contains itself"),
        ("models: !!python/object:os.system {}\n", "python/object:os.system is not allowed"),
        ("models: !secret x\n", "spec.yaml:1: models: the tag !secret is not allowed"),
        ("version: !!int one\n", "spec.yaml:1: version: cannot be read as int: 'one'"),
        ("models: &a {<<: *a}\n", "spec.yaml:1: models: an anchor that contains itself"),
        ("models: {<<: 3}\n", "spec.yaml:1: models: expected a mapping, or a list of mappings, to merge"),
        ("? [a]\n: 1\n", "spec.yaml:1: a key must be a word or a number"),
        ("a: ${NOT_SET}\n", "spec.yaml:1: a: the environment variable NOT_SET is not set"),
        ("[" * 100_000, "spec.yaml:1: nested deeper than 100 levels"),
        ("- " * 100_000, "spec.yaml:1: nested deeper than 100 levels"),
        ("\0", "spec.yaml: not valid YAML"),
    ],
)
def test_yaml_that_is_refused(tmp_path: Path, text: str, expected: str) -> None:
    assert any(expected in fault for fault in faults(tmp_path, text))


def test_files_that_are_refused(tmp_path: Path) -> None:
    large = written(tmp_path, "a: 1\n" * (document.MAX_BYTES // 5 + 1), "large.yaml")
    binary = tmp_path / "binary.yaml"
    binary.write_bytes(b"a: \xff\xfe")
    for path, words in [
        (tmp_path / "none.yaml", "no such file"),
        (tmp_path, "this is a directory"),
        (large, "the file has 8,388,610 bytes"),
        (binary, "not UTF-8 text (byte 3)"),
        (tmp_path / "a\0b", "cannot be read"),
    ]:
        with pytest.raises(SpecError, match=words.replace("(", r"\(").replace(")", r"\)")):
            document.read(path, {})


def test_anchors_cannot_expand_without_bound(tmp_path: Path) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 9)]
    assert "more than 1,000,000 values" in faults(tmp_path, "\n".join(lines))[0]


def test_words_of_yaml_1_2(tmp_path: Path) -> None:
    text = "no: on\ndate: 2024-01-01\ntruth: true\nnumber: 1_0\nsexagesimal: '1:2'\nnothing: ~\n"
    value = document.read(written(tmp_path, text), {}).value
    assert value == {
        "no": "on",
        "date": "2024-01-01",
        "truth": True,
        "number": 10,
        "sexagesimal": "1:2",
        "nothing": None,
    }


def test_merge_keys_and_variables(tmp_path: Path) -> None:
    text = 'base: &base {x: 1, y: "${HOME}"}\nuse: {<<: *base, x: 2, z: "${NONE:-d} $${HOME}", e: "${EMPTY:-full}"}\n'
    read = document.read(written(tmp_path, text), {"HOME": "/h", "EMPTY": ""})
    assert read.value["use"] == {"x": 2, "y": "/h", "z": "d ${HOME}", "e": "full"}
    assert read.variables == {"HOME": "/h", "NONE": None, "EMPTY": ""}
    assert read.origins["use", "z"].line == 2


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("${N}", 8),
        ("${N:-4}", 8),
        ("${MISSING:-4}", 4),
        ('"${N}"', "8"),
        ("'${N}'", "8"),
        ("${N}0", 80),
        ("${HALF}", 0.5),
        ("${YES}", True),
        ("${WORD}", "on"),
        ("${EMPTY}", ""),
        ("${NULL}", "null"),
        ("${LIST}", "[1, 2]"),
        ("v${N}", "v8"),
        ("$$8", "$8"),
    ],
)
def test_a_plain_variable_may_be_a_number(tmp_path: Path, text: str, value: object) -> None:
    words = {"N": "8", "HALF": "0.5", "YES": "true", "WORD": "on", "EMPTY": "", "NULL": "null", "LIST": "[1, 2]"}
    (tmp_path / "spec.yaml").write_text(f"x: {text}\n")
    found = document.read(tmp_path / "spec.yaml", words).value["x"]
    assert (found, type(found)) == (value, type(value))
    assert overlay.assignment(f"x={text}", words).value["x"] == value


@pytest.mark.parametrize("how", ["overlay", "--set"])
def test_a_slip_in_the_name_of_a_model_to_change(tmp_path: Path, how: str) -> None:
    (tmp_path / "spec.yaml").write_text("version: 1\nmodels: {digits: {source: m.onnx}, reader: {source: src}}\n")
    (tmp_path / "over.yaml").write_text("models: {digit: {max_batch_size: 4}, fresh: {source: new.onnx}}\n")
    files = [tmp_path / "spec.yaml", *([tmp_path / "over.yaml"] if how == "overlay" else [])]
    loaded = load(files, ["models.digit.max_batch_size=4"] if how == "--set" else [], {})
    (fault,) = loaded.faults.found
    assert fault.path == "models.digit"
    assert fault.file.endswith("over.yaml" if how == "overlay" else "--set models.digit.max_batch_size=4")
    assert "no such model to change" in fault.message
    assert "did you mean 'digits'?" in fault.message


def test_all_faults_of_the_frame_are_reported_together(tmp_path: Path) -> None:
    text = (
        "version: 2\n"
        "repositry: x\n"
        "models:\n"
        "  a/b: {source: 3}\n"
        "  ..: {source: x}\n"
        "  c: {ensemble: [{model: x, inputs: {}}]}\n"
        "  d: 4\n"
        "  e: {ensemble: []}\n"
        "  f: {samples: [1]}\n"
    )
    assert faults(tmp_path, text) == [
        "spec.yaml:1: version: expected 1, found 2",
        "spec.yaml:2: repositry: unknown key; did you mean 'repository'?",
        "spec.yaml:4: models[\"a/b\"]: a model's name has letters, digits, '_', '-' and '.', begins with none of the "
        "last two, and is short, found 'a/b'",
        'spec.yaml:4: models["a/b"].source: expected a path or URL, {file: ...}, '
        "{torch: package.module:factory} or {model: ...}, found 3",
        "spec.yaml:5: models[\"..\"]: a model's name has letters, digits, '_', '-' and '.', begins with none of the "
        "last two, and is short, found '..'",
        "spec.yaml:6: models.c.ensemble[0].input: is missing",
        "spec.yaml:6: models.c.ensemble[0].inputs: unknown key; did you mean 'input'?",
        "spec.yaml:6: models.c.ensemble[0].output: is missing",
        "spec.yaml:7: models.d: expected a mapping of the model's fields, found 4",
        "spec.yaml:8: models.e.ensemble: may not be empty",
        "spec.yaml:9: models.f.samples: expected a valid mapping, found a list",
    ]


def test_models_are_wanted(tmp_path: Path) -> None:
    assert faults(tmp_path, "version: 1\n") == ["spec.yaml:1: models: is missing"]
    assert faults(tmp_path, "version: 1\nmodels: {}\n") == ["spec.yaml:2: models: may not be empty"]
    assert faults(tmp_path, "version: 1\nmodels:\n") == ["spec.yaml:2: models: expected a valid mapping, found nothing"]


def test_overlays_and_assignments(tmp_path: Path) -> None:
    base = written(
        tmp_path, "version: 1\nmodels:\n  a: {source: a.onnx, max_batch_size: 8, instance_group: [{count: 1}]}\n"
    )
    laptop = written(tmp_path, "models:\n  a:\n    max_batch_size: 4\n    dynamic_batching: {}\n", "laptop.yaml")
    spec = load([base, laptop], ["models.a.instance_group[0].count=3", "models.a.samples={x: [1]}"], {}).spec
    assert spec.models["a"].source == "a.onnx"
    assert dict(spec.models["a"].fields) == {
        "max_batch_size": 4,
        "dynamic_batching": {},
        "instance_group": [{"count": 3}],
    }
    assert spec.models["a"].samples == {"x": [1]}


def test_a_fault_names_the_overlay_it_came_from(tmp_path: Path) -> None:
    base = written(tmp_path, "version: 1\nmodels:\n  a: {source: a.onnx}\n")
    over = written(tmp_path, "\nmodels:\n  a: {source: 7}\n", "over.yaml")
    found = load([base, over], [], {}).faults
    with pytest.raises(SpecError, match=r"over\.yaml:3: models\.a\.source"):
        found.raise_if_any()


@pytest.mark.parametrize(
    "option",
    [
        "models.a",
        "=3",
        "models..a=1",
        "models.a]=1",
        "[0]=1",
        ".a=1",
        "a[x]=1",
        "a=[1",
        "a[99999999999999999999]=1",
        "a." * 200 + "a=1",
    ],
)
def test_assignments_that_are_refused(tmp_path: Path, option: str) -> None:
    with pytest.raises(SpecError, match="--set"):
        loaded(tmp_path, "version: 1\nmodels: {a: {source: x}}\n", option)


def test_assignment_to_an_item_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="there is no item 2 to replace"):
        loaded(tmp_path, "version: 1\nmodels: {a: {instance_group: [{}]}}\n", "models.a.instance_group[2].count=1")


def test_dotted_paths() -> None:
    assert dotted(("models", "a", "input", 0, "dims")) == "models.a.input[0].dims"
    assert dotted(("models", "a.b", "x")) == 'models["a.b"].x'
    assert dotted(()) == ""


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("repository: r\nmodels: {a: {repository: no}}", "r"),
        ("models: {a: {repository: no, x: [repository, q]}}\nrepository: r", "r"),
        ("models: {repository: {a: 1}}\n", "default"),
        ("key: repository\nother: r", "default"),
        ("a: &a 1\nkey: *a\nrepository: r", "r"),
        # What only reading the file can tell.
        ("version: 1\nrepository: ${R}", None),
        ("repository: ${R:-other}", None),
        ("a: &a x\nrepository: *a\nb: y", None),
        ("a: &a repository\n*a : r", None),
        ("a: &a {repository: r}\n<<: *a", None),
        ("repository: [a, b]\nc: d", None),
        ("repository: 3\n", None),
        ("repository: !!str 3\n", None),
        ("repository:\n", None),
        ("? [a]\n: repository\nb: c", None),
        ("- repository\n- r", None),
        ("a: [", None),
    ],
)
def test_peek(tmp_path: Path, text: str, expected: str | None) -> None:
    assert peek(written(tmp_path, text), "repository", "default") == expected


def test_merges_cannot_expand_without_bound(tmp_path: Path) -> None:
    """Merged mappings share their keys, so that nothing but the time taken would tell."""
    lines = ["a0: &a0 {x: 1, y: 2}"]
    lines += [f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 12)}]}}" for i in range(1, 10)]
    read = document.read(written(tmp_path, "\n".join(lines)), {})
    assert read.value["a9"] == {"x": 1, "y": 2}
    many = ", ".join(f"k{i}: 1" for i in range(2000))
    text = f"a: &a {{{many}}}\nb: {{<<: [{', '.join(['*a'] * 2000)}]}}\n"
    assert faults(tmp_path, text) == ["spec.yaml:2: b: merges more than 1,000,000 values"]


def test_what_merges_win_over(tmp_path: Path) -> None:
    text = "a: &a {x: a, y: a}\nb: &b {x: b, z: b}\nc: {x: c, <<: [*a, *b]}\nd: {<<: [*b, *a]}\n"
    value = document.read(written(tmp_path, text), {}).value
    assert value["c"] == {"x": "c", "y": "a", "z": "b"}
    assert value["d"] == {"x": "b", "y": "a", "z": "b"}


def test_pipes_and_devices_are_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (Path("/dev/zero"), tmp_path / "pipe"):
        with pytest.raises(SpecError, match="a pipe or a device; expected a regular file"):
            document.read(path, {})
        assert peek(path, "repository", "default") is None


def test_assignments_are_read_as_files_are(tmp_path: Path) -> None:
    text = "version: 1\nmodels: {m: {source: x}}\n"
    options = ["models.m.instance_group=[{1: 2}]", "models.m.parameters={a: on, b: 2024-01-01, c: '${HOME}'}"]
    read = loaded(tmp_path, text, *options, HOME="/h")
    assert dict(read.spec.models["m"].fields) == {
        "instance_group": [{"1": 2}],
        "parameters": {"a": "on", "b": "2024-01-01", "c": "/h"},
    }
    assert read.variables == {"HOME": "/h"}
    read.faults.add(("models", "m", "parameters", "a"), "is wrong")
    assert [fault.file for fault in read.faults.found] == [f"--set {options[1]}"]


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("{a: 1, a: 2}", "models.m.x.a: given twice"),
        ("!secret 3", "models.m.x: the tag !secret is not allowed"),
        ("{a: [!!int one]}", "models.m.x.a[0]: cannot be read as int"),
        ("[1", "models.m.x: not valid YAML"),
        ("${NOT_SET}", "models.m.x: the environment variable NOT_SET is not set"),
        ("[" * 1000, "models.m.x: nested deeper than 100 levels"),
    ],
)
def test_values_of_assignments_that_are_refused(tmp_path: Path, value: str, words: str) -> None:
    option = f"models.m.x={value}"
    assert faults(tmp_path, "version: 1\nmodels: {m: {source: x}}\n", option)[0].startswith(f"--set {option}: {words}")


YAML_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=20,
)
KEYS = st.sampled_from(
    ["version", "repository", "models", "source", "ensemble", "samples", "a", "model", "input", "output"]
)


@settings(max_examples=300)
@given(value=st.dictionaries(KEYS, YAML_VALUES | st.dictionaries(KEYS, YAML_VALUES, max_size=4), max_size=5))
def test_any_values_end_in_a_spec_or_in_faults(tmp_path_factory: pytest.TempPathFactory, value: dict[str, Any]) -> None:
    import yaml

    file = tmp_path_factory.getbasetemp() / "fuzzed.yaml"
    file.write_text(yaml.safe_dump(value), encoding="utf-8")
    with contextlib.suppress(SpecError):
        load([file], [], {}).faults.raise_if_any()


@settings(max_examples=300)
@given(data=st.binary(max_size=200) | st.text(alphabet="-:[]{}&*!|>'\"#\n ab1<%@`,?", max_size=80).map(str.encode))
def test_any_bytes_end_in_a_document_or_in_faults(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    file = tmp_path_factory.getbasetemp() / "bytes.yaml"
    file.write_bytes(data)
    with contextlib.suppress(SpecError):
        assert isinstance(document.read(file, {}).value, dict)


@given(base=YAML_VALUES.map(lambda v: {"k": v}), over=YAML_VALUES.map(lambda v: {"k": v}))
def test_the_last_file_wins(base: dict[str, Any], over: dict[str, Any]) -> None:
    merged = overlay.merge([document.Document("a", base, {}), document.Document("b", over, {})])
    if not (isinstance(base["k"], dict) and isinstance(over["k"], dict)):
        assert repr(merged.value) == repr(over)
    else:
        assert set(merged.value["k"]) == set(base["k"]) | set(over["k"])
