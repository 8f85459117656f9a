"""From what users hand over to arrays that fit a model: pure, without a server."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tritonkit.client import values
from tritonkit.client.signature import Signature, Tensor
from tritonkit.client.tensors import as_given, collect, parse_inputs, read
from tritonkit.client.values import DTYPES, Misfit
from tritonkit.errors import SpecError

MATRIX = Tensor("X", "FP32", (2, 3))
OPEN = Tensor("IDS", "INT64", (-1,))
TEXT = Tensor("TEXT", "BYTES", (1,))


def model(*inputs: Tensor, batch: int = 4) -> Signature:
    return Signature("model", ("1",), batch, inputs, ())


@pytest.mark.parametrize(
    ("tensor", "text", "shape"),
    [
        (MATRIX, "[[1, 2, 3], [4, 5, 6]]", (1, 2, 3)),
        (MATRIX, "[[[1, 2, 3], [4, 5, 6]]]", (1, 2, 3)),
        (MATRIX, "[1, 2, 3, 4, 5, 6]", (1, 2, 3)),
        (MATRIX, json.dumps([0] * 18), (3, 2, 3)),
        (OPEN, "[1, 2, 3]", (1, 3)),
        (OPEN, "[[1, 2, 3], [4, 5, 6]]", (2, 3)),
        (OPEN, "7", (1, 1)),
        (TEXT, '"hello"', (1, 1)),
        (TEXT, '["a", "b"]', (2, 1)),
        (TEXT, "a=b, [1", (1, 1)),
        (TEXT, "5", (1, 1)),
    ],
)
def test_values_get_the_models_shape_with_a_batch(tensor: Tensor, text: str, shape: tuple[int, ...]) -> None:
    array = read(tensor, text, batched=True)
    assert array.shape == shape
    assert array.dtype == DTYPES[tensor.datatype]


def test_without_a_batch_dimension_nothing_is_added() -> None:
    assert read(MATRIX, "[1, 2, 3, 4, 5, 6]", batched=False).shape == (2, 3)
    assert read(OPEN, "[1, 2]", batched=False).shape == (2,)
    with pytest.raises(Misfit, match=r"got FP32\[12\], and the model takes FP32\[2,3\]"):
        read(MATRIX, json.dumps([0] * 12), batched=False)


@given(st.data())
@settings(max_examples=60)
def test_any_array_survives_json(data: st.DataObject) -> None:
    datatype = data.draw(st.sampled_from(["INT8", "UINT8", "INT32", "UINT64", "FP32", "FP64", "BOOL"]))
    dims = tuple(data.draw(st.lists(st.integers(1, 3), min_size=1, max_size=3)))
    dtype = np.dtype(DTYPES[datatype])
    if dtype.kind in "iu":
        limits = np.iinfo(dtype)
        elements: st.SearchStrategy[object] = st.integers(int(limits.min), int(limits.max))
    elif dtype.kind == "b":
        elements = st.booleans()
    else:
        elements = st.floats(width=32, allow_nan=False, allow_infinity=False)
    count = int(np.prod(dims))
    flat = data.draw(st.lists(elements, min_size=count, max_size=count))
    array = np.array(flat, dtype=dtype).reshape(dims)
    text = json.dumps(array.tolist())
    assert np.array_equal(read(Tensor("X", datatype, dims), text, batched=True), array[np.newaxis])


@pytest.mark.parametrize(
    ("tensor", "text", "message"),
    [
        (MATRIX, "[1, 2]", r"got FP32\[2\], and the model takes FP32\[2,3\] \(or a batch of them\)"),
        (MATRIX, "[[1, 2], [3]]", "different lengths"),
        (MATRIX, '"words"', r'"words" does not hold what the model takes: FP32\[2,3\]'),
        (MATRIX, "[1, 2", r"neither JSON nor @file"),
        (MATRIX, "[]", "takes"),
        (MATRIX, "[1e39, 1, 1, 1, 1, 1]", r"more than FP32\[2,3\] holds"),
        (OPEN, "[1.5]", "does not hold"),
        (Tensor("U", "UINT8", (2,)), "[0, 256]", r"outside 0\.\.255"),
        (Tensor("U", "UINT8", (2,)), "[-1, 0]", r"outside 0\.\.255"),
        (Tensor("B", "BOOL", (1,)), "[1]", "does not hold"),
        (Tensor("H", "FP16", (1,)), "[70000]", r"more than FP16\[1\] holds"),
        (TEXT, '["a", 5]', "5 is not a string"),
        (TEXT, '[["a"], ["b", "c"]]', "is not a string|different lengths"),
        (MATRIX, "@missing.npy", "no such file: missing.npy"),
        (MATRIX, "@missing/*.npy", "no such file"),
    ],
)
def test_what_does_not_fit_is_refused_with_both_sides(tensor: Tensor, text: str, message: str) -> None:
    with pytest.raises(Misfit, match=message):
        read(tensor, text, batched=True)


def test_numpy_files(tmp_path: Path) -> None:
    array = np.arange(12, dtype=np.float32).reshape(2, 2, 3)
    np.save(tmp_path / "x.npy", array)
    np.savez(tmp_path / "named.npz", X=array, Y=array[0])
    np.savez(tmp_path / "other.npz", anything=array)
    np.savez(tmp_path / "wrong.npz", a=array, b=array)
    np.save(tmp_path / "wide.npy", array.astype(np.float64))
    for name in ("x.npy", "named.npz", "other.npz"):
        assert np.array_equal(read(MATRIX, f"@{tmp_path / name}", batched=True), array)
    with pytest.raises(Misfit, match=r"holds a, b; no array is named X"):
        read(MATRIX, f"@{tmp_path / 'wrong.npz'}", batched=True)
    with pytest.raises(Misfit, match=r"holds float64\[2, 2, 3\], and the model takes FP32\[2,3\] \(float32\)"):
        read(MATRIX, f"@{tmp_path / 'wide.npy'}", batched=True)


def test_a_pickle_is_not_opened(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(Misfit, match=r"not a file that numpy\.save writes"):
        read(MATRIX, f"@{tmp_path / 'x.npy'}", batched=True)
    (tmp_path / "empty.npy").write_bytes(b"")
    with pytest.raises(Misfit, match=r"not a file that numpy\.save writes"):
        read(MATRIX, f"@{tmp_path / 'empty.npy'}", batched=True)


def test_raw_files(tmp_path: Path) -> None:
    array = np.arange(6, dtype="<f4")
    raw = tmp_path / "x.bin"
    raw.write_bytes(array.tobytes() * 2)
    assert read(MATRIX, f"@{raw}", batched=True).shape == (2, 2, 3)
    raw.write_bytes(array.tobytes()[:-1])
    with pytest.raises(Misfit, match=r"holds 23 bytes, and FP32\[2,3\] takes 24 \(or a multiple of it\)"):
        read(MATRIX, f"@{raw}", batched=True)
    raw.write_bytes(b"")
    with pytest.raises(Misfit, match="holds 0 bytes"):
        read(MATRIX, f"@{raw}", batched=True)
    raw.write_bytes(np.array([1.5, -2], dtype=ml_dtypes.bfloat16).tobytes())
    assert read(Tensor("H", "BF16", (2,)), f"@{raw}", batched=False).tolist() == [1.5, -2.0]


def test_json_files(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text("[1, 2, 3, 4, 5, 6]")
    assert read(MATRIX, f"@{tmp_path / 'x.json'}", batched=True).shape == (1, 2, 3)


def test_bytes_files_are_taken_as_they_are(tmp_path: Path) -> None:
    for name, content in (("b.npy", b"\x00\xff"), ("a.npy", b"")):
        (tmp_path / name).write_bytes(content)
    assert read(TEXT, f"@{tmp_path / 'b.npy'}", batched=True).tolist() == [[b"\x00\xff"]]
    # A pattern is a batch, in the order of the names.
    assert read(TEXT, f"@{tmp_path}/*.npy", batched=True).tolist() == [[b""], [b"\x00\xff"]]


def test_a_pattern_of_arrays_is_a_batch(tmp_path: Path) -> None:
    for index in range(3):
        np.save(tmp_path / f"{index}.npy", np.full((2, 3), index, dtype=np.float32))
    assert read(MATRIX, f"@{tmp_path}/*.npy", batched=True)[:, 0, 0].tolist() == [0, 1, 2]
    with pytest.raises(Misfit, match="names 3 files, and the model takes no batch"):
        read(MATRIX, f"@{tmp_path}/*.npy", batched=False)


@pytest.mark.parametrize("name", ["/dev/zero", "/dev/full", "/dev/zero.npy"])
def test_what_may_have_no_end_is_refused(tmp_path: Path, name: str) -> None:
    path = Path(name)
    if path.suffix:
        path = tmp_path / "endless.npy"
        path.symlink_to("/dev/zero")
    for kind in ("FP32", "BYTES"):
        with pytest.raises(Misfit, match=f"{path} is a device"):
            read(Tensor("X", kind, (2,)), f"@{path}", batched=False)


def test_a_pipe_is_read_to_its_end_and_no_further_than_a_request_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    tensor = Tensor("X", "UINT8", (2,))
    writer = threading.Thread(target=pipe.write_bytes, args=(b"ab",))
    writer.start()
    assert read(tensor, f"@{pipe}", batched=False).tolist() == [97, 98]
    writer.join()
    monkeypatch.setattr(values, "MAX_BYTES", 1)
    (tmp_path / "large.bin").write_bytes(b"ab")
    with pytest.raises(Misfit, match=r"large\.bin has more than 1 bytes"):
        read(tensor, f"@{tmp_path / 'large.bin'}", batched=False)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("x.json", b"[1, 2, 3]", r"got FP32\[3\], and the model takes FP32\[2\]"),
        ("x.json", b"[1, [2]]", "the lists are of different lengths"),
        ("x.json", b"nonsense", "is neither JSON nor"),
        ("x.npz", b"PK\x03\x04 no archive", "is not a file that numpy.save writes"),
        ("x.bin", b"abc", "holds 3 bytes"),
    ],
)
def test_a_fault_of_a_file_names_it(tmp_path: Path, name: str, content: bytes, words: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(Misfit, match=rf"^{tmp_path / name}:? .*{words}|^{tmp_path / name}: {words}"):
        read(Tensor("X", "FP32", (2,)), f"@{tmp_path / name}", batched=False)


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(Misfit, match=r"is a folder; name its files"):
        read(TEXT, f"@{tmp_path}", batched=True)


def test_every_fault_is_told_at_once() -> None:
    with pytest.raises(SpecError) as caught:
        collect(model(MATRIX, OPEN, TEXT), {"TEST": "hello", "X": "[1]"})
    said = str(caught.value)
    assert "input TEST: the model has no such input; did you mean 'TEXT'?" in said
    assert "input X: got FP32[1], and the model takes FP32[2,3]" in said
    assert "input IDS: no value is given, and the model needs it (INT64[-1])" in said
    assert "input TEXT: no value is given" in said
    assert "model takes: X FP32[2,3], IDS INT64[-1], TEXT BYTES[1]" in said
    assert caught.value.exit_code == 2


def test_batches_agree_and_fit() -> None:
    signature = model(TEXT, OPEN)
    with pytest.raises(SpecError, match="batch sizes differ: TEXT has 2, IDS has 1"):
        collect(signature, {"TEXT": '["a", "b"]', "IDS": "[1]"})
    with pytest.raises(SpecError, match=r"a batch of 5, and the model takes 1 to 4 \(max_batch_size\)"):
        collect(model(TEXT), {"TEXT": json.dumps(["a"] * 5)})


def test_an_optional_input_may_be_left_out() -> None:
    assert collect(model(Tensor("X", "FP32", (1,), optional=True)), {}) == {}


def test_samples_are_used_when_nothing_is_given(tmp_path: Path) -> None:
    for index in range(6):
        (tmp_path / f"{index}.txt").write_text(str(index))
    samples = {"TEXT": "*.txt", "IDS": "[[1], [2], [3], [4], [5], [6]]"}
    arrays = collect(model(TEXT, OPEN), {}, samples=samples, folder=tmp_path)
    # One batch that the model takes.
    assert arrays["TEXT"].tolist() == [[b"0"], [b"1"], [b"2"], [b"3"]]
    assert arrays["IDS"].tolist() == [[1], [2], [3], [4]]
    with pytest.raises(SpecError, match="input IDS: no value is given"):
        collect(model(TEXT, OPEN), {"TEXT": "a"}, samples=samples, folder=tmp_path)
    with pytest.raises(SpecError, match="input IDS: the samples have no value for it"):
        collect(model(TEXT, OPEN), {}, samples={"TEXT": "0.txt"}, folder=tmp_path)


def test_samples_are_json_or_paths() -> None:
    assert as_given("[1, 2]", Path("there")) == "[1, 2]"
    assert as_given("a/*.png", Path("there")) == "@there/a/*.png"
    assert as_given("@a.png", None) == "@a.png"


def test_options() -> None:
    assert parse_inputs(["A=@x=y.png", "B=[1]", "C="]) == {"A": "@x=y.png", "B": "[1]", "C": ""}
    with pytest.raises(SpecError, match=r"B is given twice\n.*expected NAME=@file or NAME=json, got 'A'"):
        parse_inputs(["A", "B=1", "B=2"])
