"""The record, inside a repository, of which files tritonkit wrote there and what they were made from."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from tritonkit.errors import Fault, SpecError
from tritonkit.spec.paths import is_plain
from tritonkit.spec.servers import Server, restored, stored
from tritonkit.tools.digests import open_regular

NAME = ".tritonkit.json"
"""A file at the top of the repository: Triton takes only folders there for models."""

_FORMAT = 1


@dataclass(frozen=True)
class Inputs:
    """Everything that a repository was made from. Equal inputs make equal repositories.

    Attributes:
        generator: version of tritonkit, with the digest of the template it rendered.
        spec: the spec and its overlays, relative to the repository.
        assignments: ``--set`` options.
        variables: digest of the value of each environment variable that the spec asked for; None where unset.
        files: digest of each file that was read, by its path relative to the repository.
        folders: digest of each source folder's list of files, likewise.
        tools: version of each package that made an artifact, by distribution name.
        compute_capabilities: those of the GPUs that plans were built for because they were here; None where none were.
        servers: how the spec spreads the models over servers: nothing in the repository depends on it.
    """

    generator: str
    spec: tuple[str, ...]
    assignments: tuple[str, ...]
    variables: Mapping[str, str | None]
    files: Mapping[str, str]
    folders: Mapping[str, str]
    tools: Mapping[str, str] = field(default_factory=dict)
    compute_capabilities: tuple[str, ...] | None = None
    servers: tuple[Server, ...] = ()


@dataclass(frozen=True)
class Manifest:
    """What tritonkit wrote into a repository.

    Attributes:
        files: digest of each file that tritonkit owns, by its path in the repository.
        inputs: what they were made from; None while a build is under way.
        replaced: the digests from before the build that is under way, or that was killed.
        executable: those of the files that tritonkit made executable.
    """

    files: Mapping[str, str] = field(default_factory=dict)
    inputs: Inputs | None = None
    replaced: Mapping[str, str] = field(default_factory=dict)
    executable: frozenset[str] = frozenset()

    def owns(self, path: str, digest: str) -> bool:
        """Whether tritonkit wrote this content at this path."""
        return digest in (self.files.get(path), self.replaced.get(path))

    @property
    def paths(self) -> frozenset[str]:
        """Every path that tritonkit wrote, or was about to write."""
        return frozenset(self.files) | frozenset(self.replaced)


def read(repository: Path) -> Manifest:
    """The manifest of a repository; an empty one where tritonkit has written nothing yet.

    Raises:
        SpecError: there is a manifest, but it cannot be used.
    """
    file = repository / NAME
    try:
        with open_regular(file) as stream:
            stored = json.loads(stream.read())
        if stored["format"] != _FORMAT:
            message = f"written in format {stored['format']} by another version of tritonkit"
            raise SpecError([Fault(str(file), 0, "", message)], hint="build into a new folder with --output")
        inputs = stored["inputs"]
        if inputs is not None:
            lists = ("spec", "assignments", "compute_capabilities")
            tuples = {key: tuple(inputs[key]) for key in lists if inputs.get(key) is not None}
            inputs = Inputs(**{**inputs, **tuples, "servers": restored(inputs.get("servers", []), inputs["spec"][0])})
        executable = frozenset(map(str, stored.get("executable", ())))
        return Manifest(_digests(stored["files"]), inputs, _digests(stored.get("replaced", {})), executable)
    except (FileNotFoundError, NotADirectoryError):
        return Manifest()
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        why = f"it has no {error}" if isinstance(error, KeyError) else str(error) or type(error).__name__
        message = f"the record of what tritonkit wrote cannot be read: {why}"
        hint = (
            "restore it; or remove it, and then whatever a build says stands in its way; or build into a new folder "
            "with --output"
        )
        raise SpecError([Fault(str(file), 0, "", message)], hint=hint) from error


def _stored(inputs: Inputs) -> dict[str, object]:
    values = {**asdict(inputs), "servers": stored(inputs.servers)}
    # Only where something was made from a source does the record say by what and for what; servers may be left out.
    optional = ("tools", "compute_capabilities", "servers")
    return {key: value for key, value in values.items() if value or key not in optional}


def _digests(stored: dict[str, object]) -> dict[str, str]:
    # What stands here is removed when the spec no longer has it: a path that leads elsewhere is never followed.
    for path in stored:
        if not is_plain(path) or path == NAME:
            raise ValueError(f"{path!r} is no path of a file in the repository")
    return {str(path): str(digest) for path, digest in stored.items()}


def write(repository: Path, manifest: Manifest) -> None:
    """Replace the manifest of a repository, at once."""
    stored = {
        "format": _FORMAT,
        "files": dict(sorted(manifest.files.items())),
        "inputs": _stored(manifest.inputs) if manifest.inputs else None,
    }
    if manifest.executable:
        stored["executable"] = sorted(manifest.executable)
    if manifest.replaced:
        stored["replaced"] = dict(sorted(manifest.replaced.items()))
    partial = repository / f"{NAME}.{os.getpid()}"
    partial.write_text(json.dumps(stored, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    partial.replace(repository / NAME)
