"""``servers`` in a spec: what it may say, what is wrong with it, and how it reaches ``up`` unread."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from test_spec import faults, loaded

from tritonkit.repository import build, changes
from tritonkit.spec.faults import Origin
from tritonkit.spec.servers import Server, servers_of
from tritonkit.spec.sizes import MIB, shown_size, size_in_bytes

MODELS = "version: 1\nmodels:\n  digits: {backend: python}\n  other: {backend: python}\nservers:\n"


def test_what_a_server_says(tmp_path: Path) -> None:
    text = MODELS + (
        "  - {name: interactive, models: [digits], gpus: [0, GPU-db45], thread_percentage: 12.5, memory_limit: 8GiB}\n"
        "  - name: batch\n    replicas: 2\n"
    )
    spec = loaded(tmp_path, text)
    spec.faults.raise_if_any()
    first, second = servers_of(spec)
    assert first.name == "interactive"
    assert (first.models, first.gpus, first.replicas) == (("digits",), (0, "GPU-db45"), 1)
    assert (first.thread_percentage, first.memory_limit) == (12.5, 8 * 2**30)
    assert (second.models, second.gpus, second.thread_percentage, second.memory_limit) == (None,) * 4
    assert second.replicas == 2
    fault = second.fault("replicas", "too many")
    assert (fault.line, fault.path, Path(fault.file).name) == (8, "servers[1].replicas", "spec.yaml")
    assert second.fault("gpus", "none").line == 7, "what was not written is the entry's"


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ("{}", "spec.yaml:6: servers[0].name: is missing"),
        ("{name: a.b}", "spec.yaml:6: servers[0].name: a server's name has letters, digits, '_' and '-'"),
        ("{name: gateway}", "spec.yaml:6: servers[0].name: tritonkit gives this name to a process of its own"),
        ("{name: mps-0}", "spec.yaml:6: servers[0].name: tritonkit gives this name to a process of its own"),
        ("{name: a, model: [digits]}", "spec.yaml:6: servers[0].model: unknown key; did you mean 'models'?"),
        ("{name: a, models: [digit]}", "spec.yaml:6: servers[0].models[0]: no model 'digit'; did you mean 'digits'?"),
        ("{name: a, models: []}", "spec.yaml:6: servers[0].models: may not be empty"),
        ("{name: a, models: [digits, digits]}", "spec.yaml:6: servers[0].models[1]: 'digits' is named twice"),
        ("{name: a, gpus: [0, 0]}", "spec.yaml:6: servers[0].gpus[1]: 0 is named twice"),
        ("{name: a, gpus: [-1]}", "spec.yaml:6: servers[0].gpus[0]: a GPU's index is 0 or more, found -1"),
        (
            "{name: a, gpus: [all]}",
            "spec.yaml:6: servers[0].gpus[0]: expected the index of a GPU, as in 0, or its UUID",
        ),
        ("{name: a, gpus: [true]}", "spec.yaml:6: servers[0].gpus[0]: expected the index of a GPU"),
        ("edge", "spec.yaml:6: servers[0]: expected a mapping, found 'edge'"),
        ("{name: a, gpus: 0}", "spec.yaml:6: servers[0].gpus: expected a valid list, found 0"),
        ("{name: a, thread_percentage: 0}", "servers[0].thread_percentage: expected greater than 0, found 0"),
        ("{name: a, thread_percentage: 101}", "thread_percentage: expected less than or equal to 100, found 101"),
        ("{name: a, thread_percentage: '30'}", "servers[0].thread_percentage: expected a valid number, found '30'"),
        (
            "{name: a, thread_percentage: .nan}",
            "servers[0].thread_percentage: expected less than or equal to 100, found nan",
        ),
        ("{name: a, memory_limit: 8 G}", "servers[0].memory_limit: expected a number of bytes, as in 4GiB"),
        ("{name: a, memory_limit: 8}", "servers[0].memory_limit: expected a number of bytes, as in 4GiB"),
        ("{name: a, memory_limit: 10KiB}", "servers[0].memory_limit: expected at least 1MiB, as in 8GiB or 512MiB"),
        ("{name: a, replicas: 0}", "servers[0].replicas: expected greater than or equal to 1, found 0"),
        ("{name: a, replicas: 65}", "servers[0].replicas: expected less than or equal to 64, found 65"),
        ("a", "spec.yaml:6: servers[0]: expected"),
    ],
)
def test_what_is_wrong_with_a_server(tmp_path: Path, entry: str, expected: str) -> None:
    found = faults(tmp_path, f"{MODELS}  - {entry}\n")
    assert len(found) == 1
    assert expected in found[0]


def test_faults_of_several_servers_come_together(tmp_path: Path) -> None:
    text = MODELS + "  - {name: a, models: [nosuch], replicas: 0}\n  - {name: a, gpu: 1}\n"
    assert [fault.split(": ")[1] for fault in faults(tmp_path, text)] == [
        "servers[0].models[0]", "servers[0].replicas", "servers[1].gpu", "servers[1].name",
    ]  # fmt: skip
    assert faults(tmp_path, "version: 1\nmodels: {m: {backend: python}}\nservers: []\n") == [
        "spec.yaml:3: servers: may not be empty"
    ]


def test_sizes() -> None:
    assert size_in_bytes("1.5GiB") == 1536 * MIB
    assert size_in_bytes("2GB") == 2 * 10**9
    assert size_in_bytes("512 MiB") == 512 * MIB
    assert (shown_size(8 * 2**30), shown_size(2 * 10**9)) == ("8GiB", "1907MiB")


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "code").mkdir()
    (tmp_path / "code/model.py").write_text("class TritonPythonModel: pass\n")
    return tmp_path


def spec(project: Path, *servers: str) -> Path:
    text = "version: 1\nmodels:\n  m: {backend: python, source: code}\n"
    if servers:
        text += "servers:\n" + "".join(f"  - {server}\n" for server in servers)
    file = project / "spec.yaml"
    file.write_text(text)
    return Path("spec.yaml")


def test_an_unchanged_spec_gives_its_servers_unread(project: Path) -> None:
    file = spec(project, "{name: a, models: [m], gpus: [0, 1], thread_percentage: 30}", "{name: b, memory_limit: 1GiB}")
    planned = build.compare([file], [], {})
    changes.apply(planned)
    known = build.current_repository([file], [], {})
    assert known is not None
    assert known.servers == planned.inputs.servers
    assert known.servers[0].thread_percentage == 30
    assert known.servers[1].origins["memory_limit"] == Origin("spec.yaml", 6)
    # From another folder the same file has another name, and faults show that one.
    os.chdir(project / "code")
    elsewhere = build.current_repository([Path("../spec.yaml")], [], {})
    assert elsewhere is not None
    assert elsewhere.servers[0].origins["gpus"] == Origin("../spec.yaml", 5)


def test_servers_alone_change_no_file_of_the_repository(project: Path) -> None:
    changes.apply(build.compare([spec(project)], [], {}))
    file = spec(project, "{name: a, thread_percentage: 30}")
    assert build.current_repository([file], [], {}) is None, "the spec is another one"
    planned = build.compare([file], [], {})
    assert not planned.any
    changes.apply(planned)
    known = build.current_repository([file], [], {})
    assert known is not None
    assert known.servers[0].thread_percentage == 30


def test_servers_of_an_overlay_and_of_an_option(project: Path) -> None:
    file = spec(project, "{name: a, thread_percentage: 30}")
    (project / "laptop.yaml").write_text("servers:\n  - {name: b}\n")
    over = build.compare([file, Path("laptop.yaml")], [], {}).inputs.servers
    assert [(server.name, server.origins["name"]) for server in over] == [("b", Origin("laptop.yaml", 2))]
    (changed,) = build.compare([file], ["servers[0].thread_percentage=50"], {}).inputs.servers
    assert changed.thread_percentage == 50
    assert changed.fault("thread_percentage", "x").file == "--set servers[0].thread_percentage=50"


def test_a_server_of_no_file_has_faults_too() -> None:
    assert str(Server("a", 2).fault("gpus", "gone")) == "servers: servers[2].gpus: gone"
