"""The folder of one model: every version, every file that a configuration names, other configurations, more files."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from onnx_models import identity
from typer.testing import CliRunner, Result

from tritonkit.cli.app import app
from tritonkit.modelconfig.text import parse


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("v1", "v3"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.py").write_text(f"# {name}\n")
    (tmp_path / "data").mkdir()
    for name in ("labels.txt", "warm.bin", "state.bin", "t4.plan", "libops.so"):
        (tmp_path / "data" / name).write_text(name)
    identity(tmp_path / "m.onnx", ("batch", 2))


def build(model: str, *options: str, rest: str = "") -> Result:
    Path("spec.yaml").write_text(f"version: 1\nmodels:\n  m: {model}\n{rest}")
    return CliRunner().invoke(app, ["build-repo", "spec.yaml", *options])


def built(model: str, *options: str, rest: str = "", root: str = "model_repository") -> set[str]:
    result = build(model, *options, rest=rest)
    assert result.exit_code == 0, result.output
    assert CliRunner().invoke(app, ["build-repo", "spec.yaml", "--check", *options]).exit_code == 0
    folder = Path(root, "m")
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()} - {"config.pbtxt"}


def refused(model: str, *options: str) -> str:
    result = build(model, *options)
    assert result.exit_code == 2, result.output
    assert "Traceback" not in result.output
    return result.stderr


def config(name: str = "config.pbtxt") -> object:
    return parse(Path("model_repository/m", name).read_text())


def test_every_version_has_its_folder() -> None:
    files = built("{backend: python, versions: {3: v3, 1: v1/model.py, 12: }, version_policy: {all: {}}}", "--no-check")
    assert files == {"3/model.py", "1/model.py", "12/.gitkeep"}
    assert Path("model_repository/m/3/model.py").read_text() == "# v3\n"


def test_a_version_that_is_dropped_is_removed() -> None:
    built("{backend: python, versions: {1: v1, 3: v3}}")
    assert built("{backend: python, versions: {1: v1}}") == {"1/model.py"}


def test_the_latest_version_says_the_signature() -> None:
    identity(Path("new.onnx"), ("batch", 7))
    built("{max_batch_size: 1, versions: {2: new.onnx, 1: m.onnx}}")
    assert list(config().input[0].dims) == [7]  # type: ignore[attr-defined]


def test_named_files_go_where_triton_looks() -> None:
    files = built(
        """{backend: python, source: v1, max_batch_size: 1,
      input: {i: "FP32[1]"}, output: {o: {data_type: TYPE_FP32, dims: [1], label_filename: data/labels.txt}},
      model_warmup: [{name: w, batch_size: 1, inputs: {i: {data_type: TYPE_FP32, dims: [1],
        input_data_file: data/warm.bin}}}],
      sequence_batching: {state: [{input_name: a, output_name: b, data_type: TYPE_FP32, dims: [1], initial_state: [
        {name: z, data_type: TYPE_FP32, dims: [1], data_file: data/state.bin}]}]},
      cc_model_filenames: {"7.5": data/t4.plan, "8.0": model.py},
      model_operations: {op_library_filename: [data/libops.so, libfound.so, /lib/lib.so]}}""",
        "--no-check",
    )
    assert files == {
        "1/model.py", "1/t4.plan", "labels.txt", "libops.so", "warmup/warm.bin", "initial_state/state.bin",
    }  # fmt: skip
    said = parse(Path("model_repository/m/config.pbtxt").read_text())
    assert said.output[0].label_filename == "labels.txt"
    assert said.model_warmup[0].inputs["i"].input_data_file == "warm.bin"
    assert said.sequence_batching.state[0].initial_state[0].data_file == "state.bin"
    assert dict(said.cc_model_filenames) == {"7.5": "t4.plan", "8.0": "model.py"}
    # The dynamic linker gets this name, and knows nothing of the model's folder.
    assert list(said.model_operations.op_library_filename) == [
        str(Path("model_repository/m/libops.so").resolve()), "libfound.so", "/lib/lib.so",
    ]  # fmt: skip


def test_a_name_that_more_files_hold_stays_as_it_is() -> None:
    output = "output: {o: {data_type: TYPE_FP32, dims: [1], label_filename: deep/labels.txt}}"
    files = built(f"{{backend: python, source: v1, {output}, files: {{deep: data}}}}", "--no-check")
    assert "deep/labels.txt" in files
    assert config().output[0].label_filename == "deep/labels.txt"  # type: ignore[attr-defined]


def test_changed_named_files_are_built_anew() -> None:
    model = (
        "{backend: python, source: v1, output: {o: {data_type: TYPE_FP32, dims: [1], label_filename: data/labels.txt}}}"
    )
    built(model, "--no-check")
    Path("data/labels.txt").write_text("other")
    assert build(model, "--no-check", "--check").exit_code == 1


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (
            "{backend: python, source: v1, versions: {1: v1}}",
            "models.m.source: is version 1; write it under 'versions'",
        ),
        ("{backend: python, versions: {}}", "models.m.versions: may not be empty"),
        ("{backend: python, versions: {01: v1}}", "versions.01: a version is a whole number"),
        ("{backend: python, versions: {one: v1}}", "versions.one: a version is a whole number"),
        ("{backend: python, versions: {9223372036854775808: v1}}", "a version is a whole number"),
        ("{backend: python, versions: {1: nowhere}}", "models.m.versions.1: there is no file or folder nowhere"),
        ("{backend: python, versions: {1: v1, 2: data}}", "versions.2: data holds no model.py, which the python"),
        ("{backend: python, versions: [v1]}", "models.m.versions: expected a valid mapping"),
        ("{backend: python, source: v1, files: {../x: v1}}", "expected a path inside the model's folder"),
        ("{backend: python, source: v1, files: {/x: v1}}", "expected a path inside the model's folder"),
        ("{backend: python, source: v1, files: {config.pbtxt: m.onnx}}", "is written from the model's fields"),
        ("{backend: python, source: v1, files: {1/model.py: v3/model.py}}", "would both be m/1/model.py; rename one"),
        (
            "{backend: python, source: v1, files: {2_old: v3}}",
            "models.m.files: Triton would take the folder '2_old' for a version; rename it",
        ),
        (
            "{backend: python, source: v1, files: {9223372036854775808/x: m.onnx}}",
            "Triton would take the folder '9223372036854775808' for a version",
        ),
        ("{backend: python, source: v1, files: {1: m.onnx}}", "m/1 would be a file and the folder of m/1/model.py"),
        ("{backend: python, source: v1, files: {x: nowhere}}", "models.m.files.x: there is no file or folder nowhere"),
        ("{backend: python, source: v1, configs: {a/b: {}}}", "a configuration's name has letters"),
        ("{backend: python, source: v1, configs: {a: nowhere}}", "models.m.configs.a: there is no file nowhere"),
        ("{backend: python, source: v1, configs: {a: m.onnx}}", "models.m.configs.a: m.onnx is no ModelConfig"),
        ("{backend: python, source: v1, configs: {a: {max_batch: 3}}}", "models.m.configs.a.max_batch: unknown key"),
        (
            "{backend: python, source: v1, model_warmup: [{name: w, inputs: {i: {input_data_file: none}}}]}",
            "models.m.model_warmup[0].inputs.i.input_data_file: there is no file none",
        ),
        (
            "{backend: python, source: v1, files: {configs/a.pbtxt: data/labels.txt}, configs: {a: {}}}",
            "models.m.configs.a: data/labels.txt would be m/configs/a.pbtxt, which is written from the fields",
        ),
    ],
)
def test_folders_that_are_refused(model: str, words: str) -> None:
    assert words in refused(model)


def _pipe() -> None:
    os.mkfifo("v1/loop")


def test_links_and_pipes_in_a_source_are_refused() -> None:
    spoilers: list[tuple[Callable[[], object], str]] = [
        (lambda: Path("v1/loop").symlink_to("."), "leads back to the folder that it lies in"),
        (lambda: Path("v1/loop").symlink_to("nowhere"), "neither a file nor a folder"),
        (_pipe, "neither a file nor a folder"),
    ]
    for make, words in spoilers:
        make()
        assert words in refused("{backend: python, source: v1}")
        Path("v1/loop").unlink()
    os.mkfifo("pipe.onnx")
    assert "there is no file or folder pipe.onnx" in refused("{source: pipe.onnx}")
    assert "there is no file or folder" in refused(f"{{source: {'x' * 300}.onnx}}")


def test_other_configurations() -> None:
    Path("whole.pbtxt").write_text("# by hand\nmax_batch_size: 99\n")
    files = built(
        """{source: m.onnx, max_batch_size: 4, dynamic_batching: {}, configs: {
      big: {max_batch_size: 64, instance_group: 3}, sequences: {sequence_batching: {}}, hand: whole.pbtxt}}"""
    )
    assert files == {"1/model.onnx", "configs/big.pbtxt", "configs/sequences.pbtxt", "configs/hand.pbtxt"}
    assert Path("model_repository/m/configs/hand.pbtxt").read_text() == Path("whole.pbtxt").read_text()
    big, sequences = (
        parse(Path(f"model_repository/m/configs/{name}.pbtxt").read_text()) for name in ("big", "sequences")
    )
    assert (big.name, big.max_batch_size, big.instance_group[0].count) == ("m", 64, 3)
    assert big.HasField("dynamic_batching")
    assert list(big.input[0].dims) == [2]
    assert sequences.HasField("sequence_batching")


def test_verbatim_fills_in_nothing() -> None:
    built("{source: m.onnx, verbatim: true, output: [{label_filename: data/labels.txt}]}", "--no-check")
    assert str(config()) == 'output {\n  label_filename: "data/labels.txt"\n}\n'


def test_an_ensemble_in_full() -> None:
    built(
        """{platform: ensemble, ensemble_scheduling: {step: [
      {model_name: n, input_map: {a: a}, output_map: {b: b}, model_namespace: s}]},
      input: {a: "FP32[1]"}, output: {b: "FP32[1]"}, versions: {2: }}""",
        "--no-check",
    )
    said = parse(Path("model_repository/m/config.pbtxt").read_text())
    assert said.platform == "ensemble"
    assert not said.instance_group
    assert said.ensemble_scheduling.step[0].model_namespace == "s"


def test_no_check_builds_what_triton_would_refuse() -> None:
    model = "{ensemble: [{model: nobody, input: {a: a}, output: {b: b}}]}"
    assert "there is no model 'nobody'" in refused(model)
    assert built(model, "--no-check") == {"1/.gitkeep"}
    # What was built unchecked is no reason to skip the check.
    assert "there is no model 'nobody'" in refused(model)


def test_a_repository_is_never_built_from_itself() -> None:
    built("{backend: python, source: v1}")
    stderr = refused("{backend: python, versions: {1: model_repository/m/1, 2: v1}}")
    words = "models.m.versions.1: model_repository/m/1 lies inside the repository model_repository; build into another"
    assert words in stderr
    assert Path("model_repository/m/1/model.py").read_text() == "# v1\n"


@pytest.mark.parametrize("key", ["source: .", "source: v1, files: {all: .}", "versions: {1: .}"])
def test_a_source_that_holds_the_repository_is_refused(key: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    Path("model.py").write_text("class TritonPythonModel: ...\n")
    for _ in range(2):
        stderr = refused(f"{{backend: python, {key}}}")
        assert ": . holds the repository model_repository that is built from it; name the model's one file" in stderr
        assert not Path("model_repository").exists()
    assert built("{source: model.py}") == {"1/model.py"}
    elsewhere = str(tmp_path_factory.mktemp("elsewhere"))
    assert "1/model.py" in built("{backend: python, source: .}", "--output", elsewhere, root=elsewhere)


def test_a_link_into_the_repository_is_no_source() -> None:
    built("{backend: python, source: v1}")
    Path("v3/old.py").symlink_to("../model_repository/m/1/model.py")
    assert "models.m.source: v3/old.py lies inside the repository" in refused("{backend: python, source: v3}")


@pytest.mark.parametrize("name", ["../../../../PWNED.onnx", "/PWNED.onnx", "a/../../../x.onnx", "./x.onnx", "a\\\\b"])
@pytest.mark.parametrize("option", ["--check", "--no-check"])
def test_no_file_name_leads_outside_the_model(name: str, option: str, tmp_path: Path) -> None:
    before = {*tmp_path.parent.iterdir(), *tmp_path.iterdir()}
    stderr = refused(f'{{source: m.onnx, default_model_filename: "{name}"}}', option)
    assert "models.m.default_model_filename: expected a path inside the model's folder" in stderr
    assert {*tmp_path.parent.iterdir(), *tmp_path.iterdir()} - before == {tmp_path / "spec.yaml"}


def test_a_file_name_with_a_folder_is_fine() -> None:
    assert built("{source: m.onnx, default_model_filename: deep/net.onnx}") == {"1/deep/net.onnx"}


def test_odd_names_in_a_source_are_refused() -> None:
    for name in (b"a\\b", b"\xff"):
        odd = Path("v1", os.fsdecode(name))
        odd.touch()
        assert "models.m.source: expected a path inside the model's folder" in refused("{backend: python, source: v1}")
        odd.unlink()


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("config.pbtxt", "label_filename: data/config.pbtxt would be m/config.pbtxt, which is written from the fields"),
        ("1", "m/1 would be a file and the folder of m/1/model.py"),
        ("configs", "m/configs would be a file and the folder of m/configs/a.pbtxt"),
    ],
)
def test_named_files_take_no_other_files_place(name: str, words: str) -> None:
    Path("data", name).write_text("a label")
    output = f"output: {{o: {{data_type: TYPE_FP32, dims: [1], label_filename: data/{name}}}}}"
    assert words in refused(f"{{backend: python, source: v1, {output}, configs: {{a: {{}}}}}}", "--no-check")


def test_a_source_that_cannot_be_read_is_named_with_its_line() -> None:
    # It is a regular file, and reading it fails for everybody.
    stderr = refused("{backend: python, source: /proc/self/mem}")
    assert "spec.yaml:3: models.m.source: /proc/self/mem cannot be read: " in stderr


def _weights_beside(location: str) -> None:
    """Write beside.onnx, whose weights lie in another file."""
    import onnx
    from onnx import TensorProto, helper

    tensors = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 2]) for name in ("x", "y")]
    weights = helper.make_tensor("w", TensorProto.FLOAT, [2], bytes(range(8)), raw=True)
    graph = helper.make_graph([helper.make_node("Add", ["x", "w"], ["y"])], "g", tensors[:1], tensors[1:], [weights])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, "beside.onnx", save_as_external_data=True, location="w.bin", size_threshold=0)
    entry = next(entry for entry in model.graph.initializer[0].external_data if entry.key == "location")
    entry.value = location
    Path("beside.onnx").write_bytes(model.SerializeToString())


def test_weights_beside_an_onnx_file_go_with_it() -> None:
    _weights_beside("w.bin")
    assert built("{source: beside.onnx, max_batch_size: 1}") == {"1/model.onnx", "1/w.bin"}
    assert built("{source: beside.onnx, default_model_filename: a/b.onnx, max_batch_size: 1}") == {
        "1/a/b.onnx",
        "1/a/w.bin",
    }
    Path("w.bin").write_bytes(bytes(8))
    assert build("{source: beside.onnx, max_batch_size: 1}", "--check").exit_code == 1
    Path("w.bin").unlink()
    words = "models.m.source: beside.onnx keeps weights in w.bin, which is not there"
    assert words in refused("{source: beside.onnx, max_batch_size: 1}")
    _weights_beside("../w.bin")
    assert "keeps weights in '../w.bin'; expected a file beside it" in refused("{source: beside.onnx}")
