"""The starter ``digits``: its network, its held-out images, and how it reads pictures."""

from __future__ import annotations

import importlib.util
import io
import re
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image

STARTER = Path(__file__).parent.parent / "templates" / "starters" / "digits"
MODEL = STARTER / "models" / "digits.onnx"

Array = npt.NDArray[Any]


def load(path: str) -> ModuleType:
    """A module of the starter, loaded without leaving compiled files beside it."""
    spec = importlib.util.spec_from_file_location(f"starter_{Path(path).stem}", STARTER / path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    before, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        spec.loader.exec_module(module)
    finally:
        sys.dont_write_bytecode = before
    return module


train = load("train.py")
evaluate = load("evaluate.py")
pixels = load("src/read_image/decoding.py").pixels


@pytest.fixture(scope="module")
def held_out() -> tuple[Array, Array]:
    with np.load(STARTER / "held_out.npz", allow_pickle=False) as file:
        return file["images"], file["labels"]


@pytest.fixture(scope="module")
def scores(held_out: tuple[Array, Array]) -> Array:
    return run(network_input(held_out[0]))


def network_input(images: Array) -> Array:
    return images.reshape(-1, 1, 8, 8).astype(np.float32) / np.float32(255)


SESSION = onnxruntime.InferenceSession(MODEL, providers=["CPUExecutionProvider"])


def run(images: Array) -> Array:
    return np.asarray(SESSION.run(["output"], {"input": images})[0])


# The data


def test_held_out_images_are_the_split_of_scikit_learn(held_out: tuple[Array, Array]) -> None:
    from sklearn.datasets import load_digits

    images, labels = held_out
    train_images, test_images, train_labels, test_labels = train.split()
    assert images.dtype == labels.dtype == np.uint8
    np.testing.assert_array_equal(images, test_images)
    np.testing.assert_array_equal(labels, test_labels)
    assert (len(train_images), len(images)) == (1437, 360)
    assert set(np.bincount(labels)) <= {35, 36, 37}
    # Nothing is lost in bytes: scikit-learn's values come back, and both parts together are all of its images.
    values = np.rint(np.concatenate([train_images, images]).astype(float) * (16 / 255))
    both = sorted(zip(values.reshape(-1, 64).tolist(), np.concatenate([train_labels, labels]).tolist(), strict=True))
    digits = load_digits()
    assert both == sorted(zip(digits.data.tolist(), digits.target.tolist(), strict=True))


def test_no_held_out_image_was_trained_on(held_out: tuple[Array, Array]) -> None:
    trained = {image.tobytes() for image in train.split()[0]}
    assert not [index for index, image in enumerate(held_out[0]) if image.tobytes() in trained]


def test_samples_are_held_out_images_of_their_digits(held_out: tuple[Array, Array]) -> None:
    images, labels = held_out
    assert sorted(file.name for file in (STARTER / "samples").iterdir()) == [f"{digit}.png" for digit in range(10)]
    for digit in range(10):
        sample = np.asarray(Image.open(STARTER / "samples" / f"{digit}.png"))
        assert any(np.array_equal(sample, image) for image in images[labels == digit])


def test_labels_name_the_digits_in_order() -> None:
    names = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
    assert (STARTER / "labels.txt").read_text().splitlines() == names


# The network


def test_accuracy_is_what_the_readme_states(held_out: tuple[Array, Array], scores: Array) -> None:
    right = int((scores.argmax(axis=1) == held_out[1]).sum())
    readme = (STARTER / "README.md").read_text()
    stated = re.search(r"(\d+) of (\d+) held-out images right \(([\d.]+) %\)", readme)
    assert stated is not None
    assert (int(stated[1]), int(stated[2])) == (right, len(scores))
    assert float(stated[3]) == round(100 * right / len(scores), 2)
    assert right / len(scores) >= 0.97


def test_output_is_probabilities(scores: Array) -> None:
    assert scores.dtype == np.float32
    assert scores.shape == (360, 10)
    assert scores.min() >= 0
    np.testing.assert_allclose(scores.sum(axis=1), 1, atol=1e-5)


@pytest.mark.parametrize("size", [1, 2, 7, 8, 32])
def test_an_image_is_answered_alike_alone_and_in_any_batch(
    size: int, held_out: tuple[Array, Array], scores: Array
) -> None:
    images = network_input(held_out[0])
    batched = np.concatenate([run(images[start : start + size]) for start in range(0, len(images), size)])
    np.testing.assert_allclose(batched, scores, rtol=0, atol=1e-6)
    np.testing.assert_array_equal(batched.argmax(axis=1), scores.argmax(axis=1))


def test_no_answer_hangs_on_the_last_bits(scores: Array) -> None:
    first, second = np.sort(scores, axis=1)[:, -1:-3:-1].T
    assert (first - second).min() > 1e-3


def check_file(path: Path) -> None:
    """An ONNX file of the starter's shape, whole in itself, with nothing in it of where it was made."""
    content = path.read_bytes()
    assert len(content) < 300_000
    model = onnx.load(path, load_external_data=False)
    onnx.checker.check_model(model, full_check=True)
    graph = model.graph
    (source,), (target,) = graph.input, graph.output
    assert (source.name, source.type.tensor_type.elem_type) == ("input", onnx.TensorProto.FLOAT)
    assert (target.name, target.type.tensor_type.elem_type) == ("output", onnx.TensorProto.FLOAT)
    dims = [[dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim] for value in (source, target)]
    assert dims == [["batch", 1, 8, 8], ["batch", 10]]
    assert all(tensor.data_location == onnx.TensorProto.DEFAULT for tensor in graph.initializer)
    noted = (model, graph, *graph.node, *graph.input, *graph.output, *graph.initializer)
    assert not [item for item in noted if item.doc_string or item.metadata_props]
    assert not re.search(rb"/\w+/\w+|[A-Z]:\\|\.py\b|stack_trace", content)


def test_model_file() -> None:
    check_file(MODEL)
    assert sorted(file.name for file in MODEL.parent.iterdir()) == ["digits.onnx"]


@pytest.mark.filterwarnings("ignore")
def test_training_script_exports_such_a_file(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed (extra 'export')")
    torch.manual_seed(0)
    network = train.network().eval()
    train.export(network, tmp_path / "new.onnx")
    check_file(tmp_path / "new.onnx")
    images = network_input(train.split()[1])
    session = onnxruntime.InferenceSession(tmp_path / "new.onnx", providers=["CPUExecutionProvider"])
    (exported,) = session.run(None, {"input": images})
    with torch.no_grad():
        expected = network(torch.from_numpy(images)).softmax(dim=1).numpy()
    np.testing.assert_allclose(exported, expected, atol=1e-5)


# Reading pictures


def saved(image: Image.Image, form: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def grey(array: Array) -> Image.Image:
    return Image.fromarray(array.astype(np.uint8))


def noise(side: int) -> Image.Image:
    return grey(np.random.default_rng(0).integers(0, 256, (side, side)))


RAMP = np.arange(64).reshape(8, 8) * 4 + 3
EXPECTED = (RAMP.astype(np.float32) / np.float32(255))[np.newaxis]


def test_every_held_out_image_survives_png_exactly(held_out: tuple[Array, Array]) -> None:
    images, _ = held_out
    read = np.stack([pixels(evaluate.png(image)) for image in images])
    assert read.dtype == np.float32
    np.testing.assert_array_equal(read, network_input(images))
    np.testing.assert_array_equal(read, train.tensor(images))


def test_every_grey_value_survives_png_exactly() -> None:
    for value in range(256):
        assert (pixels(saved(grey(np.full((8, 8), value)))) == np.float32(value) / np.float32(255)).all()


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "LA", "P"])
def test_modes_of_one_picture_read_the_same(mode: str) -> None:
    np.testing.assert_array_equal(pixels(saved(grey(RAMP).convert(mode))), EXPECTED)


def test_two_tones() -> None:
    image = grey(np.where(RAMP > 128, 255, 0)).convert("1")
    np.testing.assert_array_equal(pixels(saved(image))[0], RAMP > 128)


def test_sixteen_bits_are_scaled_and_not_cut_off() -> None:
    image = Image.fromarray((RAMP * 257).astype(np.uint16))
    assert image.mode.startswith("I;16")
    np.testing.assert_array_equal(pixels(saved(image)), EXPECTED)


def test_transparent_is_black() -> None:
    image = grey(RAMP).convert("RGBA")
    image.putalpha(grey(np.where(np.arange(64).reshape(8, 8) < 32, 0, 255)))
    read = pixels(saved(image))
    assert (read[0, :4] == 0).all()
    np.testing.assert_array_equal(read[0, 4:], EXPECTED[0, 4:])


def test_transparent_palette_colour_is_black() -> None:
    image = grey(np.full((8, 8), 200)).convert("P")
    image.putpixel((3, 2), 7)
    read = pixels(saved(image, transparency=image.getpixel((0, 0))))
    assert read[0, 2, 3] == np.float32(7) / np.float32(255)
    assert read.sum() == read[0, 2, 3]


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
def test_jpeg(mode: str) -> None:
    read = pixels(saved(grey(RAMP).convert(mode), "JPEG", quality=100, subsampling=0))
    np.testing.assert_allclose(read, EXPECTED, atol=0.03)


def test_photograph_is_turned_upright() -> None:
    image = grey(RAMP)
    exif = Image.Exif()
    exif[0x0112] = 3  # stored upside down
    read = pixels(saved(image.rotate(180), "JPEG", quality=100, exif=exif))
    np.testing.assert_allclose(read, EXPECTED, atol=0.03)


@pytest.mark.parametrize("factor", [2, 4, 100])
def test_larger_pictures_are_averaged(factor: int) -> None:
    large = np.kron(RAMP, np.ones((factor, factor)))
    np.testing.assert_array_equal(pixels(saved(grey(large))), EXPECTED)


@pytest.mark.parametrize("size", [(1, 1), (3, 5), (9, 7), (2000, 10), (28, 28)])
def test_any_size_gives_the_networks(size: tuple[int, int]) -> None:
    read = pixels(saved(Image.new("L", size, 51)))
    assert read.shape == (1, 8, 8)
    np.testing.assert_array_equal(read, np.float32(51) / np.float32(255))


def test_read_sample_is_classified() -> None:
    for digit in range(10):
        answer = run(pixels((STARTER / "samples" / f"{digit}.png").read_bytes())[np.newaxis])
        assert answer.argmax() == digit


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (b"", "empty"),
        (b"no image at all", "not a PNG or JPEG file: it begins with b'no image'"),
        (saved(grey(RAMP), "GIF"), "not a PNG or JPEG file"),
        (saved(grey(RAMP), "BMP"), "not a PNG or JPEG file"),
        (saved(noise(99))[:900], "cannot be decoded: .*truncated"),
        (saved(noise(99), "JPEG")[:900], "cannot be decoded: .*truncated"),
    ],
    ids=["empty", "text", "gif", "bmp", "half a png", "half a jpeg"],
)
def test_what_is_no_picture_is_refused(image: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pixels(image)


@pytest.mark.parametrize("form", ["PNG", "JPEG"])
def test_cut_picture_is_read_whole_or_refused(form: str) -> None:
    whole = saved(noise(8), form)
    read = []
    for length in range(len(whole)):
        try:
            read.append(pixels(whole[:length]))
        except ValueError:
            continue
    # The last bytes hold no pixels, so that some cuts do no harm; most of them must be found out.
    assert len(read) < 30
    for picture in read:
        np.testing.assert_array_equal(picture, pixels(whole))


@pytest.mark.parametrize("side", [5_000, 12_000, 60_000])
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_huge_picture_is_refused_by_its_claim(side: int) -> None:
    # Only the header is there. Had decoding begun, the message would be about missing data.
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    file = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    with pytest.raises(ValueError, match=r"too large|exceeds limit"):
        pixels(file)


@given(st.binary(min_size=1, max_size=200), st.sampled_from([b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0"]))
@example(b"\x00", b"")
def test_random_bytes_are_refused(image: bytes, begin: bytes) -> None:
    with pytest.raises(ValueError, match=r"not a PNG|cannot be decoded|too large"):
        pixels(begin + image)


@given(st.data())
def test_damaged_picture_is_read_or_refused(data: st.DataObject) -> None:
    whole = bytearray((STARTER / "samples" / "3.png").read_bytes())
    if data.draw(st.booleans()):
        whole = bytearray(saved(grey(RAMP), "JPEG"))
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    try:
        read = pixels(bytes(whole))
    except ValueError:
        return
    assert read.shape == (1, 8, 8)
    assert read.dtype == np.float32
    assert ((read >= 0) & (read <= 1)).all()


# evaluate.py


def test_offline_results_are_the_networks(held_out: tuple[Array, Array], scores: Array) -> None:
    np.testing.assert_array_equal(evaluate.offline(held_out[0]), scores)


def test_comparison_accepts_equal_answers(held_out: tuple[Array, Array], scores: Array) -> None:
    lines, well = evaluate.compare(scores, scores, held_out[1])
    assert well
    assert lines == [
        "served accuracy 100.00%  offline accuracy 100.00%  identical predictions 360/360  "
        "largest difference of a probability 0.0e+00"
    ]


def test_comparison_refuses_one_other_answer(held_out: tuple[Array, Array], scores: Array) -> None:
    other = scores.copy()
    other[17] = np.roll(other[17], 1)
    lines, well = evaluate.compare(other, scores, held_out[1])
    assert not well
    label = held_out[1][17]
    assert lines[0] == f"image 17: served {(label + 1) % 10}, offline {label}, label {label}"
    assert "identical predictions 359/360" in lines[1]


def test_comparison_refuses_a_poor_network(held_out: tuple[Array, Array], scores: Array) -> None:
    poor = scores.copy()
    poor[:11] = np.roll(poor[:11], 1, axis=1)
    lines, well = evaluate.compare(poor, poor, held_out[1])
    assert not well
    assert "served accuracy 96.94%" in lines[0]


def test_unreachable_server_is_one_message() -> None:
    argv = [sys.executable, "-B", str(STARTER / "evaluate.py"), "--url", "127.0.0.1:1"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stdout == ""
    assert re.fullmatch(r"error: 127\.0\.0\.1:1: .*refused\n", done.stderr)
