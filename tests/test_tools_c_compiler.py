"""Which C compiler is found, and what is said where there is none."""

from __future__ import annotations

import ctypes
import importlib.util
import shutil
import sys
from pathlib import Path

import pytest

from tritonkit.errors import CommandFailed, ToolMissing
from tritonkit.tools import c_compiler


def only(monkeypatch: pytest.MonkeyPatch, *programs: str, packages: tuple[str, ...] = ()) -> None:
    """Let these programs and packages be all that there are."""
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr(shutil, "which", lambda name: f"/bin/{name}" if name in programs else None)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object() if name in packages else None)


def test_the_order_in_which_they_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    only(monkeypatch, "gcc", "clang", "cc", "mine", packages=("ziglang",))
    assert c_compiler.find() == ("/bin/cc",)
    monkeypatch.setenv("CC", "mine -m64")
    assert c_compiler.find() == ("/bin/mine", "-m64")
    only(monkeypatch, "clang", "gcc")
    assert c_compiler.find() == ("/bin/gcc",)
    only(monkeypatch, "clang")
    assert c_compiler.find() == ("/bin/clang",)
    only(monkeypatch, packages=("ziglang",))
    assert c_compiler.find() == (sys.executable, "-m", "ziglang", "cc")


def test_where_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    only(monkeypatch)
    with pytest.raises(ToolMissing, match="there is no C compiler") as caught:
        c_compiler.find()
    assert "pip install ziglang" in (caught.value.hint or "")
    monkeypatch.setenv("CC", "mine")
    with pytest.raises(ToolMissing, match="CC names a C compiler that is not here: mine"):
        c_compiler.find()


def test_a_library_is_compiled_and_works(tmp_path: Path) -> None:
    (tmp_path / "twice.c").write_text('__attribute__((visibility("default"))) int twice(int x) { return 2 * x; }\n')
    c_compiler.shared_library([tmp_path / "twice.c"], tmp_path / "twice.so")
    assert ctypes.CDLL(str(tmp_path / "twice.so")).twice(21) == 42


def test_a_compiler_that_does_not_work_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    assert c_compiler.check() == c_compiler.find()
    monkeypatch.setenv("CC", "cc -nostdinc")
    with pytest.raises(CommandFailed, match=r"stdlib\.h"):
        c_compiler.check()


def compiler_for_another_machine(folder: Path) -> str:
    """The real one, whose libraries say that they are for a machine that runs no Python."""
    script = folder / "compiler"
    # Byte 18 of an ELF file.
    script.write_text(f"""#!/bin/sh
{c_compiler.find()[0]} "$@" || exit
while [ "$1" != -o ]; do shift; done
printf '\\367' | dd of="$2" bs=1 seek=18 conv=notrunc 2>/dev/null
""")
    script.chmod(0o755)
    return str(script)


def test_a_compiler_for_another_machine_is_found_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CC", compiler_for_another_machine(tmp_path))
    (tmp_path / "any.c").touch()
    with pytest.raises(CommandFailed, match=r"what it has made does not load: .*any\.so"):
        c_compiler.shared_library([tmp_path / "any.c"], tmp_path / "any.so")
    assert not (tmp_path / "any.so").exists()


def test_a_compiler_that_makes_nothing_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", "true")
    with pytest.raises(CommandFailed, match="it has made nothing"):
        c_compiler.check()


def test_a_compiler_that_cannot_be_run_is_found_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    broken = tmp_path / "cc"
    broken.write_bytes(b"\x7fELF but not really")
    broken.chmod(0o755)
    monkeypatch.setenv("CC", str(broken))
    with pytest.raises(CommandFailed, match="it cannot be run: Exec format error"):
        c_compiler.check()
    monkeypatch.setenv("CC", '"cc')
    with pytest.raises(ToolMissing, match='CC cannot be read: "cc: No closing quotation'):
        c_compiler.check()


def test_what_a_library_does_not_define_does_not_keep_it_from_loading(tmp_path: Path) -> None:
    (tmp_path / "other.c").write_text(
        "int elsewhere(void);\n"
        '__attribute__((visibility("default"))) int (*place)(void) = elsewhere;\n'
        '__attribute__((visibility("default"))) int call(void) { return elsewhere(); }\n'
    )
    c_compiler.shared_library([tmp_path / "other.c"], tmp_path / "other.so")
    assert (tmp_path / "other.so").is_file()
