"""What a sweep is made of before anything runs: load levels, command lines, data. Pure."""

from __future__ import annotations

import base64
import io
import json
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tritonkit.bench import data
from tritonkit.bench.command import ANY_PERCENTAGE, Measurement, argv, interval_for, shell_line
from tritonkit.bench.levels import (
    PROTOCOLS,
    SHARED_MEMORIES,
    Axes,
    Concurrency,
    Level,
    RequestRate,
    check,
    choices,
    levels,
    numbers,
    whole_numbers,
)
from tritonkit.client.endpoint import Addresses
from tritonkit.client.signature import Signature, Tensor
from tritonkit.errors import SpecError

SERVER = Addresses("10.0.0.1:8000", "10.0.0.1:8001")
DATATYPES = [
    "BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64", "FP16", "BF16", "FP32", "FP64",
]  # fmt: skip


def model(*inputs: Tensor, batch: int = 8, decoupled: bool = False) -> Signature:
    return Signature("model", ("1",), batch, inputs, (), decoupled=decoupled)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("4", [4]),
        ("1,2,8", [1, 2, 8]),
        ("1:4", [1, 2, 3, 4]),
        ("1:16:5", [1, 6, 11, 16]),
        ("1:16:2", [1, 3, 5, 7, 9, 11, 13, 15]),
        ("1:2,8,2", [1, 2, 8]),
        ("0.5:1:0.1", [0.5, 0.6, 0.7, 0.8, 0.9, 1.0]),
        ("1e3", [1000]),
    ],
)
def test_ranges(text: str, expected: list[float]) -> None:
    assert numbers("--rate", text) == expected


@pytest.mark.parametrize("text", ["", "a", "0", "-1", "4:1", "1:2:3:4", "1:4:0", "1,,2", "nan", "inf", "1:1e9"])
def test_what_is_no_range_is_refused(text: str) -> None:
    with pytest.raises(SpecError, match=r"--rate: .*[\s\S]*1:16:2"):
        numbers("--rate", text)


def test_whole_numbers() -> None:
    assert whole_numbers("--concurrency", "1:3") == [1, 2, 3]
    with pytest.raises(SpecError, match=r"--concurrency: expected whole numbers, got '1\.5'"):
        whole_numbers("--concurrency", "1.5")


@given(st.integers(1, 500), st.integers(0, 500), st.integers(1, 50))
def test_a_range_is_pythons_with_its_end(start: int, more: int, step: int) -> None:
    assert numbers("--x", f"{start}:{start + more}:{step}") == list(range(start, start + more + 1, step))


def test_choices() -> None:
    assert choices("--protocol", "grpc,http", PROTOCOLS) == ("grpc", "http")
    with pytest.raises(SpecError, match="--protocol: 'htp' is none of http, grpc"):
        choices("--protocol", "htp", PROTOCOLS)


def test_levels_are_every_combination_with_a_folder_each() -> None:
    loads = (
        Concurrency(1),
        Concurrency(2),
        RequestRate(2),
        RequestRate(2, "poisson"),
        RequestRate(0.5),
        RequestRate(1_000_000),
        RequestRate(1_000_001),
        RequestRate(0.123456789),
        RequestRate(1.123456789),
        RequestRate(1.123456788),
        RequestRate(12_345_678_901),
        RequestRate(12_345_678_902),
        Concurrency(1),
    )
    found = levels(["a", "b"], Axes(loads, (1, 8), PROTOCOLS, SHARED_MEMORIES))
    assert len(found) == 2 * 12 * 2 * 2 * 2
    assert len({level.label for level in found}) == len(found)
    assert len({str(level.load) for level in found}) == 12
    assert [level.load for level in found[:12]] == list(loads[:12])
    assert found[0].label == "a-http-b1-c1"
    assert Level("a", RequestRate(0.5), 8, "grpc", "system", "3").label == "a-v3-grpc-shm-b8-r0.5-constant"


def test_levels_that_a_model_cannot_take() -> None:
    check([Level("m", Concurrency(1), 8)], model())
    check([Level("m", Concurrency(1), 1)], model(batch=0))
    with pytest.raises(SpecError, match=r"a batch of 9, and it takes at most 8 \(max_batch_size\)"):
        check([Level("m", Concurrency(1), 9)], model())
    with pytest.raises(SpecError, match="a batch of 2, and it takes no batches"):
        check([Level("m", Concurrency(1), 2)], model(batch=0))
    slashes = model(Tensor("/X", "FP32", (1,)), Tensor("a/../b", "FP32", (1,)))
    check([Level("m", Concurrency(1))], slashes)
    with pytest.raises(SpecError) as caught:
        check([Level("m", Concurrency(1)), Level("m", Concurrency(1), shared_memory="system")], slashes)
    assert str(caught.value) == "--shared-memory: model: no shared memory can be named after a/../b"
    with pytest.raises(SpecError, match="it is decoupled"):
        check([Level("m", Concurrency(1), 1)], model(decoupled=True))


def test_command_lines() -> None:
    binary, files = Path("/opt/perf_analyzer"), {"data": Path("in.json"), "report": Path("out.csv")}
    closed = argv(binary, Level("m", Concurrency(4)), SERVER, Measurement(), **files)
    assert closed == [
        "/opt/perf_analyzer", "-m", "m", "-i", "http", "-u", "10.0.0.1:8000", "-b", "1", "--input-data", "in.json",
        "--concurrency-range", "4", "--measurement-interval", "1000", "--stability-percentage", "10",
        "--max-trials", "10", "-v", "--verbose-csv", "-f", "out.csv",
    ]  # fmt: skip
    level = Level("m", RequestRate(1250.5, "poisson"), 8, "grpc", "system", "2")
    opened = argv(binary, level, SERVER, Measurement(300, 5, 4).as_it_comes(), **files)
    assert opened == [
        "/opt/perf_analyzer", "-m", "m", "-x", "2", "-i", "grpc", "-u", "10.0.0.1:8001", "-b", "8",
        "--input-data", "in.json", "--shared-memory", "system", "--async", "--max-threads", "4",
        "--request-rate-range", "1250.5", "--request-distribution", "poisson", "--measurement-interval", "300",
        "--stability-percentage", f"{ANY_PERCENTAGE:g}", "--max-trials", "3", "-v", "--verbose-csv", "-f", "out.csv",
    ]  # fmt: skip
    exact = argv(binary, Level("m", RequestRate(1_000_001)), SERVER, Measurement(), **files)
    assert exact[exact.index("--request-rate-range") + 1] == "1000001"
    assert shell_line(["a b", "c"], {"X": "1 2"}) == "env 'X=1 2' 'a b' c"
    assert shell_line(["a"], {}) == "a"


def test_windows_fit_the_latency() -> None:
    assert interval_for(0.0001) == 1000
    assert interval_for(0.1) == 5000
    assert interval_for(60) == 20_000
    assert Measurement(1000, 10, 10).deadline > 10


@pytest.mark.parametrize("datatype", DATATYPES)
def test_made_numbers_are_ones_a_model_can_meet(datatype: str) -> None:
    signature = model(Tensor("X", datatype, (50, 3)))
    made = data.make(signature, seed=1)
    assert len(made.steps) == data.GENERATED_STEPS
    values = np.stack([step["X"] for step in made.steps]).astype(np.float64)
    assert np.isfinite(values).all()
    assert values.min() >= 0
    assert values.max() <= (255 if datatype == "UINT8" else 127)
    assert len(np.unique(values)) > 1
    # The file says the same, bit by bit.
    first = json.loads(data.document(made, signature))["data"][0]["X"]
    assert first["shape"] == [50, 3]
    assert base64.b64decode(first["content"]["b64"]) == made.steps[0]["X"].tobytes()


def test_a_seed_makes_the_same_data() -> None:
    signature = model(Tensor("X", "FP32", (4,)), Tensor("T", "BYTES", (2,)))

    def text(seed: int) -> str:
        return data.document(data.make(signature, seed=seed), signature)

    assert text(3) == text(3)
    assert text(3) != text(4)


def test_large_inputs_keep_to_a_budget() -> None:
    made = data.make(model(Tensor("X", "UINT8", (12, 2**20))))
    assert len(made.steps) == 2


def test_texts_are_made_up_and_said_to_be() -> None:
    signature = model(Tensor("T", "BYTES", (2,)), Tensor("X", "FP32", (1,)))
    made = data.make(signature)
    assert made.generated == ("T",)
    content = json.loads(data.document(made, signature))["data"][0]["T"]["content"]["b64"]
    first = made.steps[0]["T"][0]
    assert base64.b64decode(content).startswith(struct.pack("<I", len(first)) + first)
    assert data.make(signature, given={"T": '["a", "b"]'}).generated == ()


def test_images_are_generated() -> None:
    made = data.make(model(Tensor("IMAGE", "BYTES", (1,))), given={"IMAGE": "png:7x5"})
    assert made.generated == ()
    images = [Image.open(io.BytesIO(step["IMAGE"].item())) for step in made.steps]
    assert {image.size for image in images} == {(7, 5)}
    assert len({image.tobytes() for image in images}) == data.GENERATED_STEPS


def test_files_are_steps_and_shorter_inputs_go_round(tmp_path: Path) -> None:
    for index in range(3):
        (tmp_path / f"{index}.txt").write_text(str(index))
    inputs = (Tensor("T", "BYTES", (1,)), Tensor("X", "INT32", (1,)))
    given = {"T": f"@{tmp_path}/*.txt", "X": "[[10], [11]]"}
    made = data.make(model(*inputs), given=given)
    assert [(step["T"].item(), step["X"].item()) for step in made.steps] == [(b"0", 10), (b"1", 11), (b"2", 10)]
    request = made.request(4, batched=True)
    assert request["T"].tolist() == [[b"0"], [b"1"], [b"2"], [b"0"]]
    # A model without a batch takes the files one after the other.
    alone = data.make(model(*inputs, batch=0), given={"T": f"@{tmp_path}/*.txt", "X": "[1]"})
    assert alone.request(1, batched=False)["T"].shape == (1,)
    assert len(alone.steps) == 3


def test_samples_fill_what_is_not_given(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("from the sample")
    inputs = (Tensor("T", "BYTES", (1,)), Tensor("X", "INT32", (1,)))
    made = data.make(model(*inputs), given={"X": "[5]"}, samples={"T": "*.txt", "X": "[6]"}, folder=tmp_path)
    assert {name: array.item() for name, array in made.steps[0].items()} == {"T": b"from the sample", "X": 5}


def test_items_of_different_shapes_make_no_batch(tmp_path: Path) -> None:
    for length in (3, 5):
        np.save(tmp_path / f"{length}.npy", np.zeros(length, np.float32))
    signature, given = model(Tensor("X", "FP32", (-1,))), {"X": f"@{tmp_path}/*.npy"}
    assert [step["X"].shape for step in data.make(signature, given=given).steps] == [(3,), (5,)]
    with pytest.raises(SpecError, match=r"input X: its items have different shapes \(\[3\] and \[5\]\), .* batch of 2"):
        data.make(signature, given=given, batch_size=2)
    np.save(tmp_path / "5.npy", np.zeros(3, np.float32))
    assert data.make(signature, given=given, batch_size=2).request(2, batched=True)["X"].shape == (2, 3)


def test_open_shapes_have_to_be_given() -> None:
    signature = model(Tensor("IDS", "INT64", (-1, 2)), Tensor("M", "INT64", (-1,)))
    with pytest.raises(SpecError, match=r"input IDS: its shape is open \(INT64\[-1,2\]\): give one with --shape IDS:"):
        data.make(signature)
    with pytest.raises(SpecError, match=r"the shape \[5, 3\] was asked for, and the model takes INT64\[-1,2\]"):
        data.make(signature, shapes={"IDS": (5, 3), "M": (5,)})
    made = data.make(signature, shapes={"IDS": (5, 2), "M": (5,)})
    assert made.steps[0]["IDS"].shape == (5, 2)


def test_optional_inputs_are_left_out_unless_given() -> None:
    signature = model(Tensor("X", "FP32", (1,)), Tensor("O", "FP32", (1,), optional=True))
    assert set(data.make(signature).steps[0]) == {"X"}
    assert set(data.make(signature, given={"O": "[1]"}).steps[0]) == {"X", "O"}
