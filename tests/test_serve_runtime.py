from __future__ import annotations

import fcntl
import os
from pathlib import Path

import pytest
from serving import echo_repository, up

from tritonkit.errors import TritonkitError
from tritonkit.serve.runtime import create, remove, runtime_directory


def test_sockets_outlive_the_session_of_their_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What logind keeps for a session goes with it, and what cleans /tmp takes what nobody has touched for days."""
    session = tmp_path / "session"
    session.mkdir(mode=0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(session))
    with up(tmp_path, echo_repository(tmp_path / "models")) as deployment:
        folder = deployment.control.parent
        assert folder == runtime_directory(deployment.id)
        assert folder.stat().st_mode & 0o777 == 0o700
        assert list(session.iterdir()) == []
        cleaner = os.open(folder, os.O_RDONLY)
        with pytest.raises(BlockingIOError):
            fcntl.flock(cleaner, fcntl.LOCK_SH | fcntl.LOCK_NB)
        os.close(cleaner)
    assert not folder.exists()


@pytest.mark.parametrize("place", ["around", "around/feedbeef"])
def test_a_folder_that_leads_elsewhere_holds_no_sockets(tmp_path: Path, place: str) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir(mode=0o755)
    (tmp_path / place).parent.mkdir(exist_ok=True)
    (tmp_path / place).symlink_to(elsewhere)
    with pytest.raises(TritonkitError, match="is not a folder of this user"):
        create(tmp_path / "around/feedbeef")
    assert list(elsewhere.iterdir()) == []
    assert elsewhere.stat().st_mode & 0o777 == 0o755


def test_a_folder_that_goes_while_it_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A deployment that ends removes the folder around its own, when it is the last one there."""
    mine, other = tmp_path / "around/mine", tmp_path / "around/other"
    create(other)
    ends = [other]
    mkdir = Path.mkdir

    def made(place: Path, mode: int = 0o777, **options: bool) -> None:
        if place == mine and ends:
            remove(ends.pop())
        mkdir(place, mode, **options)

    monkeypatch.setattr(Path, "mkdir", made)
    create(mine)
    assert [path.name for path in mine.parent.iterdir()] == ["mine"]
