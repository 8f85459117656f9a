from __future__ import annotations

from pathlib import Path

import pytest

from tritonkit.client.endpoint import ModelState
from tritonkit.serve.diagnosis import failure, hint, last_errors, loud_lines, unusable_models

# As the real server writes them.
NO_GPU = """\
W1121 09:46:25.290872 5142 pinned_memory_manager.cc:273] "Unable to allocate pinned system memory, pinned memory pool"
E1121 09:46:25.290998 5142 server.cc:241] "CudaDriverHelper has not been initialized."
Error: Failed to initialize NVML
W1121 09:46:27.043934 5142 metrics.cc:798] "DCGM unable to start: DCGM initialization error"
"""
LOG = (
    NO_GPU
    + """\
I1121 09:46:25.291895 5142 model_lifecycle.cc:472] "loading: echo:1"
[libprotobuf ERROR /tmp/x/text_format.cc:337] Error parsing text-format inference.ModelConfig: 1:8: no field "garbage".
E1121 09:52:07.829967 5615 model_repository_manager.cc:1460] "Poll failed for model directory 'odd': failed to read \
text proto from /m/odd/config.pbtxt"
E1121 09:52:07.830314 5615 model_repository_manager.cc:1460] "Poll failed for model directory 'hollow': Invalid name"
E1121 09:52:07.830488 5615 model_repository_manager.cc:724] "failed to load model 'bare': at least one version"
E1121 09:52:09.413770 5615 model_lifecycle.cc:642] "failed to load 'boom' version 1: Internal: No module\\n\\nAt:\\n"
"""
)


def test_every_model_that_is_not_ready_is_named_with_its_reason() -> None:
    index = [
        ModelState("boom", "1", "UNAVAILABLE", "Internal: No module"),
        ModelState("echo", "1", "READY", ""),
        ModelState("hollow", "", "", ""),
        ModelState("odd", "", "", ""),
        ModelState("unasked", "1", "UNAVAILABLE", "unloaded"),
        ModelState("wanted", "1", "UNAVAILABLE", "Not found: wanted"),
    ]
    assert unusable_models(index, ["bare", "boom", "echo", "hollow", "mute", "odd"], LOG) == (
        ("bare", "at least one version"),
        ("boom", "Internal: No module"),
        ("hollow", "Invalid name"),
        ("odd", 'failed to read text proto from /m/odd/config.pbtxt: 1:8: no field "garbage".'),
        ("wanted", "Not found: wanted"),
        ("mute", "not loaded"),
    )


def test_causes_come_before_what_follows_from_them() -> None:
    depends = "Invalid argument: ensemble 'a' depends on 'z' which has no loaded version."
    index = [ModelState("a", "1", "UNAVAILABLE", depends), ModelState("z", "1", "UNAVAILABLE", "Internal: No module")]
    assert [name for name, _ in unusable_models(index, ["a", "b", "z"], "")] == ["z", "a", "b"]


def test_a_version_that_failed_counts_beside_one_that_is_ready() -> None:
    index = [ModelState("m", "1", "READY", ""), ModelState("m", "2", "UNAVAILABLE", "no")]
    assert unusable_models(index, ["m"], "") == (("m", "no"),)
    superseded = [ModelState("m", "1", "UNAVAILABLE", "unloaded"), ModelState("m", "2", "READY", "")]
    assert unusable_models(superseded, ["m"], "") == ()


def test_complaints_leave_out_that_there_is_no_gpu() -> None:
    assert loud_lines(NO_GPU.splitlines()) == []
    assert len(loud_lines(LOG.splitlines())) == 5
    assert last_errors(LOG, 1).endswith('At:\\n"')
    assert last_errors("a\nb\nc", 2) == "b\nc"


@pytest.mark.parametrize(
    ("words", "advice"),
    [
        ("ModuleNotFoundError: No module named 'onnxruntime'", "tritonkit[cpu]"),
        ("ModuleNotFoundError: No module named 'PIL.Image'", "module PIL.Image into the environment"),
        ("unable to find backend library for backend 'tensorrt', try", "no backend tensorrt"),
        ("numpy 2.1.0 does not work in Triton's Python stub: install numpy < 2", "pip install 'numpy<2'"),
        ("Socket '127.0.0.1:8000' already in use", "took the port"),
        ("Failed to increase the shared memory pool size", "--shm-size"),
        ("unrecognized option '--x=1'", "--server-arg"),
    ],
)
def test_known_failures_have_a_hint(words: str, advice: str) -> None:
    assert advice in str(hint(words))


def test_what_another_process_said_before_is_not_quoted(tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    log.write_text("E1121 the first one's words\n")
    since = log.stat().st_size
    with log.open("a") as file:
        file.write("E1121 the second one's words\n")
    assert "first" in str(failure("a", "ended", log))
    said = str(failure("a", "ended", log, since=since))
    assert ("first" in said, "second" in said) == (False, True)


def test_unknown_failures_have_none() -> None:
    assert hint("Internal: something new") is None
