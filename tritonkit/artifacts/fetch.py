"""Bringing files here from elsewhere: once, whole, verified, and going on where a killed download stopped."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tritonkit.artifacts.recipes import Download
from tritonkit.errors import ExportFailed, ToolMissing
from tritonkit.tools import digests
from tritonkit.tools.commands import cache_directory

_BLOCK = 1 << 20

Report = Callable[[str, float], None]


@dataclass(frozen=True)
class _Remote:
    """What is known of a file before it is read.

    Attributes:
        size: its bytes; None where the other side does not say.
        identity: tells its content from another one under the same address, as an ETag does; empty if nothing does.
    """

    size: int | None
    identity: str


def is_url(text: str) -> bool:
    """Whether a source is written as a URL and not as a path."""
    return "://" in text


def filename(url: str) -> str:
    """The name that a URL ends with."""
    path = urlsplit(url).path.rstrip("/").rpartition("/")[2]
    return path.partition("@")[0] if url.startswith("hf://") else path


def find(download: Download) -> Path | None:
    """The file, where it is here already. A URL without a digest stays what it was when it was fetched."""
    digest = download.sha256.lower() if download.sha256 else _recorded(download.url)
    if digest is None:
        return None
    file = _blob(digest, filename(download.url))
    return file if file.is_file() and digests.of_file(file) == digest else None


def fetch(download: Download, report: Report) -> Path:
    """Bring a file here.

    Args:
        download: what.
        report: called with a stage and the share that is done.

    Raises:
        ExportFailed: it cannot be reached, breaks off, or is not what its digest says. Nothing is kept of a wrong file.
        ToolMissing: a package for this kind of address is not installed.
        OSError: the disk refuses.
    """
    known = find(download)
    if known is not None:
        return known
    name = digests.of_bytes(download.url.encode())[:40]
    folder = cache_directory() / "downloads"
    folder.mkdir(parents=True, exist_ok=True)
    with _alone(folder / f"{name}.lock"):
        known = find(download)
        if known is not None:
            return known
        partial = folder / f"{name}.partial"
        try:
            if download.url.startswith("hf://"):
                _from_hub(download.url, partial, report)
            else:
                _from_anywhere(download.url, partial, report)
        except (ExportFailed, ToolMissing):
            raise
        except OSError as error:
            if error.errno is not None and error.filename is None and not _is_remote(error):
                raise
            raise _unreachable(download.url, error) from error
        except Exception as error:
            raise _unreachable(download.url, error) from error
        digest = digests.of_file(partial)
        if download.sha256 and digest != download.sha256.lower():
            _forget(partial)
            message = f"{download.url} has the sha256 {digest}, not {download.sha256.lower()}; nothing was kept of it"
            raise ExportFailed(message, hint="correct source.sha256, or find out who changed the file")
        file = _blob(digest, filename(download.url))
        file.parent.mkdir(parents=True, exist_ok=True)
        partial.replace(file)
        _forget(partial)
        _write(folder / f"{name}.json", {"url": download.url, "sha256": digest})
        return file


def _blob(digest: str, name: str) -> Path:
    return cache_directory() / "downloads" / digest / name


def _recorded(url: str) -> str | None:
    try:
        record = json.loads(
            (cache_directory() / "downloads" / f"{digests.of_bytes(url.encode())[:40]}.json").read_text()
        )
        return str(record["sha256"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def forget(download: Download) -> None:
    """Let the next fetch ask the other side again."""
    name = digests.of_bytes(download.url.encode())[:40]
    (cache_directory() / "downloads" / f"{name}.json").unlink(missing_ok=True)


@contextmanager
def _alone(lock: Path) -> Iterator[None]:
    with lock.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        yield


def _is_remote(error: OSError) -> bool:
    # A refused connection and a full disk are both OSErrors; only what comes from a socket is the other side's.
    return isinstance(error, ConnectionError | TimeoutError | FileNotFoundError | PermissionError)


def _unreachable(url: str, error: BaseException) -> ExportFailed:
    # fsspec says no more than the address; what stands behind it says why.
    told = error.__cause__ if error.__cause__ is not None and str(error) in ("", url) else error
    words = " ".join(str(told).split())
    words = f"{type(told).__name__}: there is no such file, or it may not be read" if words in ("", url) else words
    return ExportFailed(f"{url} cannot be fetched: {words[:300]}", hint="the next try goes on where this one stopped")


def _from_anywhere(url: str, partial: Path, report: Report) -> None:
    filesystem, path = _filesystem(url)
    remote = _ask(filesystem, path)
    begun = _begun(partial, remote)
    with filesystem.open(path, "rb", block_size=_BLOCK, cache_type="readahead") as stream:
        if begun and not _skip(stream, begun):
            begun = 0
        with partial.open("r+b" if begun else "wb") as target:
            _write(_facts(partial), asdict(remote))
            target.seek(begun)
            while block := stream.read(_BLOCK):
                target.write(block)
                begun += len(block)
                report(f"fetching {filename(url)}", begun / remote.size if remote.size else 0.0)
    if remote.size is not None and begun != remote.size:
        message = f"{url} broke off after {begun:,} of {remote.size:,} bytes"
        raise ExportFailed(message, hint="the next try goes on where this one stopped")


def _filesystem(url: str) -> tuple[Any, str]:
    try:
        import fsspec
    except ModuleNotFoundError:
        raise ToolMissing("fsspec is not installed; it fetches URLs", hint="pip install 'tritonkit[export]'") from None
    try:
        filesystem, path = fsspec.core.url_to_fs(url)
    except ImportError as error:
        # fsspec says which package its protocol needs.
        raise ToolMissing(f"{url}: {error}", hint="install it beside tritonkit, with pip") from None
    except ValueError as error:
        raise ExportFailed(f"{url} cannot be fetched: {error}") from None
    return filesystem, str(path)


def _ask(filesystem: Any, path: str) -> _Remote:
    facts = filesystem.info(path)
    told = [facts.get(name) for name in ("ETag", "etag", "md5", "content_md5", "LastModified", "mtime", "updated")]
    if facts.get("type") == "directory":
        raise ExportFailed(f"{path} is a folder; name a file in it")
    size = facts.get("size")
    return _Remote(int(size) if size is not None else None, " ".join(str(word) for word in told if word))


def _begun(partial: Path, remote: _Remote) -> int:
    """How much of this very file an earlier try left."""
    try:
        same = json.loads(_facts(partial).read_text()) == asdict(remote)
        begun = partial.stat().st_size
    except (OSError, ValueError):
        return 0
    return begun if same and remote.size is not None and begun <= remote.size else 0


def _skip(stream: Any, begun: int) -> bool:
    try:
        stream.seek(begun)
    except (ValueError, OSError, NotImplementedError):
        return False
    return True


def _facts(partial: Path) -> Path:
    return partial.with_name(f"{partial.name}.json")


def _forget(partial: Path) -> None:
    partial.unlink(missing_ok=True)
    _facts(partial).unlink(missing_ok=True)


def _write(file: Path, value: Any) -> None:
    partial = file.with_name(f"{file.name}.{os.getpid()}")
    partial.write_text(json.dumps(value))
    partial.replace(file)


def _from_hub(url: str, partial: Path, report: Report) -> None:
    """A file of a repository on Hugging Face: hf://organization/repository/path, or .../path@revision."""
    try:
        from huggingface_hub import hf_hub_download
        from huggingface_hub.utils import disable_progress_bars
    except ModuleNotFoundError:
        hint = "pip install 'tritonkit[export]'"
        raise ToolMissing("huggingface_hub is not installed; it fetches hf:// sources", hint=hint) from None
    address, _, revision = url.removeprefix("hf://").partition("@")
    parts = address.split("/", 2)
    if len(parts) < 3 or not all(parts):
        raise ExportFailed(f"{url} names no file; expected hf://organization/repository/path")
    disable_progress_bars()
    report(f"fetching {filename(url)}", 0.0)
    # Its own cache goes on where a killed download stopped, and is shared with every other program.
    cached = hf_hub_download("/".join(parts[:2]), parts[2], revision=revision or None)
    with open(cached, "rb") as source, partial.open("wb") as target:
        shutil.copyfileobj(source, target, _BLOCK)
