"""From one model of the spec to its folder in the repository: its configurations, and its files with their places."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from google.protobuf import text_format

from tritonkit.artifacts.fetch import is_url
from tritonkit.artifacts.onnx_file import read_signature
from tritonkit.artifacts.provenance import recorded_signature
from tritonkit.artifacts.signature import Signature, UnreadableArtifact
from tritonkit.errors import nearest
from tritonkit.modelconfig.configure import configure, differing
from tritonkit.modelconfig.text import parse
from tritonkit.repository.named_files import CONFIGS, NamedFile, named_files
from tritonkit.repository.placement import FILENAMES, RepositoryFile, backend_of, is_file, is_there, version_files
from tritonkit.repository.surroundings import Surroundings
from tritonkit.spec.faults import Path as SpecPath
from tritonkit.spec.paths import is_plain
from tritonkit.spec.schema import Model, is_version

# Plans and TorchScript do not say themselves what they take: their records do, where tritonkit made them.
_READERS: dict[str, Callable[[Path], Signature | None]] = {
    "onnxruntime": read_signature,
    "tensorrt": recorded_signature,
    "pytorch": recorded_signature,
}

# Triton reads a folder's name up to what is no digit, and takes it for a version's number unless it begins with a zero.
_LIKE_A_VERSION = re.compile(r"\s*[+-]?\d")

_IN_FOLDER = "expected a path inside the model's folder, without '..' or a backslash"

# Triton wants a version's folder even where there is nothing to put, and git keeps no empty folder.
EMPTY_FOLDER = ".gitkeep"


class ModelFolder:
    """One model's folder, planned.

    Attributes:
        name: the model's name, which is the folder's.
        config: the ModelConfig of its config.pbtxt.
        variants: the ModelConfig of each ``configs/NAME.pbtxt``, by name, where it is not a file of the user's.
        files: every other file, with its path in the repository.
        sources: every source that was read to plan them, with the path in the spec that names it.
        signature: what the artifact says of its inputs and outputs; None where it does not say.
    """

    def __init__(self, name: str, model: Model, surroundings: Surroundings) -> None:
        self.name = name
        self.sources: dict[Path, SpecPath] = {}
        self.variants: dict[str, Any] = {}
        self._model = model
        self._around = surroundings
        self._held: dict[str, RepositoryFile] = {}
        self._repository = Path(os.path.realpath(surroundings.repository))
        versions = self._versions()
        self._numbers = tuple(versions)
        stated = {key: str(model.fields.get(key) or "") for key in ("backend", "platform", "default_model_filename")}
        first = next((source for source in versions.values() if source is not None), None)
        if first is None and isinstance(model.source, str):
            # Not there, its name may still tell what it is made for.
            first = surroundings.directory / model.source
        self._backend = None if self._is_ensemble else backend_of(first, stated["backend"], stated["platform"])
        self.signature: Signature | None = None
        for number, source in versions.items():
            if source is not None:
                self._place_version(number, source, stated["default_model_filename"])
        for path, text in model.files.items():
            self._place(path, self._around.directory / text, ("files", path))
        self.config = self._configured(model, ())
        for variant, said in model.configs.items():
            self._place_variant(variant, said)
        self._keep_empty_versions()
        self._check_places()
        self._check_samples()

    @property
    def files(self) -> list[RepositoryFile]:
        """Every file of the folder but its configurations."""
        return list(self._held.values())

    @property
    def _is_ensemble(self) -> bool:
        fields = self._model.fields
        return bool(self._model.ensemble or "ensemble_scheduling" in fields or fields.get("platform") == "ensemble")

    def _fault(self, path: SpecPath, message: str) -> None:
        self._around.faults.add(("models", self.name, *path), message)

    def _versions(self) -> dict[str, Path | None]:
        """The source of each version, in order; None where its folder is empty or its source cannot be used."""
        model = self._model
        if model.versions is not None:
            if model.source is not None:
                self._fault(("source",), "is version 1; write it under 'versions', with the others")
            if not model.versions and self._around.check:
                self._fault(("versions",), "may not be empty: Triton serves no model without a version")
            ordered = sorted(model.versions.items(), key=lambda item: int(item[0]))
            return {number: self._source(text, ("versions", number)) for number, text in ordered}
        if model.ensemble:
            return {"1": None}
        if model.source is not None:
            return {"1": self._source(model.source, ("source",))}
        if not self._is_ensemble and not self._around.faults.within(("models", self.name)):
            self._fault((), "has neither a source nor an ensemble; give it one of the two")
        return {"1": None}

    def _source(self, text: object, where: SpecPath) -> Path | None:
        # All that has to be fetched or made is a path by now, except where that was refused or not asked for.
        if not isinstance(text, str) or is_url(text):
            return None
        source = self._around.directory / text
        return source if self._is_usable(source, where) else None

    def _is_usable(self, source: Path, where: SpecPath) -> bool:
        if not is_there(source):
            if self._around.sources:
                self._fault(where, f"there is no file or folder {source}")
            return False
        # The next build would take the repository for part of the source, and the one after that once more.
        if source.is_dir() and self._repository.is_relative_to(os.path.realpath(source)):
            message = (
                f"{source} holds the repository {self._around.repository} that is built from it; name the model's one "
                "file, as in 'source: model.py', or move the model's files into a folder of their own"
            )
            self._fault(where, message)
            return False
        return self._is_apart(source, where)

    def _is_apart(self, source: Path, where: SpecPath) -> bool:
        # The next build would take such a source for its own, and might delete it.
        if not Path(os.path.realpath(source)).is_relative_to(self._repository):
            return True
        repository = self._around.repository
        self._fault(where, f"{source} lies inside the repository {repository}; build into another folder with --output")
        return False

    def _place_version(self, number: str, source: Path, stated: str) -> None:
        """Put a source into its version's folder, and remember what it says of its inputs and outputs."""
        where: SpecPath = ("source",) if self._model.versions is None else ("versions", number)
        if self._backend is None and not self._is_ensemble and not self._model.verbatim:
            known = ", ".join(sorted(FILENAMES))
            self._fault(where, f"{source} does not tell its backend; state 'backend' (for example: {known})")
            return
        filename = stated or FILENAMES.get(self._backend or "")
        if stated and not is_plain(stated) and (self._around.check or not source.is_dir()):
            self._fault(("default_model_filename",), f"{_IN_FOLDER}, found {stated!r}")
            return
        try:
            held = dict(version_files(source, filename))
        except OSError as error:
            self._fault(where, f"{source} cannot be read: {error.filename}: {error.strerror}")
            return
        needed = filename if self._around.check and not self._model.fields.get("cc_model_filenames") else None
        # What a backend loads may also be a folder, as TensorFlow's SavedModel is.
        if needed is not None and not any(path == needed or path.startswith(f"{needed}/") for path in held):
            self._fault(where, f"{source} holds no {filename}, which the {self._backend} backend loads")
            return
        self._read(source, where)
        for path, file in held.items():
            self._hold(f"{number}/{path}", file, where)
        reader, artifact = _READERS.get(self._backend or ""), held.get(filename or "")
        several = self._model.fields.get("cc_model_filenames")
        if artifact is None and isinstance(several, Mapping):
            artifact = next((held[name] for name in several.values() if name in held), None)
        if reader is None or artifact is None or self._model.verbatim:
            return
        try:
            # The versions come in order: the latest, which Triton serves by default, is what counts.
            signature = reader(artifact)
            self.signature = signature
            self._place_beside(number, artifact, filename or "", signature.beside if signature else (), where)
        except UnreadableArtifact as error:
            self._fault(where, f"{artifact} {error}")
        except OSError as error:
            self._fault(where, f"{artifact} cannot be read: {error.strerror}")

    def _place_beside(self, number: str, artifact: Path, name: str, beside: Iterable[str], where: SpecPath) -> None:
        """Put the files that an artifact keeps its weights in beside it, where it looks for them."""
        for location in beside:
            path, file = (Path(number, name).parent / location).as_posix(), artifact.parent / location
            if not is_plain(location):
                if self._around.check:
                    self._fault(where, f"{artifact} keeps weights in {location!r}; expected a file beside it")
            elif path not in self._held and is_file(file):
                self._read(file, where)
                self._hold(path, file, where)
            elif path not in self._held and self._around.check:
                self._fault(where, f"{artifact} keeps weights in {file}, which is not there")

    def _place(self, path: str, source: Path, where: SpecPath) -> None:
        """Put a file, or every file of a folder, at a path of the model's folder."""
        if not self._is_usable(source, where):
            return
        try:
            held = version_files(source, "")
        except OSError as error:
            self._fault(where, f"{source} cannot be read: {error.filename}: {error.strerror}")
            return
        self._read(source, where)
        for below, file in held:
            self._hold(f"{path}/{below}" if source.is_dir() else path, file, where)

    def _hold(self, path: str, source: Path, where: SpecPath) -> None:
        if not is_plain(path):
            self._fault(where, f"{_IN_FOLDER}, found {path!r}")
            return
        if not self._is_apart(source, where):
            return
        there = self._held.get(path)
        if there is not None and there.source != source:
            self._fault(where, f"{source} and {there.source} would both be {self.name}/{path}; rename one")
        self._held[path] = RepositoryFile(f"{self.name}/{path}", source=source)

    def _read(self, source: Path, where: SpecPath) -> None:
        self.sources[source] = ("models", self.name, *where)

    def _configured(self, model: Model, within: SpecPath) -> Any:
        faults, path = self._around.faults, ("models", self.name, *within)
        config = configure(self.name, model, backend=self._backend, signature=self.signature, faults=faults, path=path)
        if not model.verbatim:
            for named in list(named_files(config)):
                self._place_named(named, self._written(model, config, within, named))
        return config

    @staticmethod
    def _written(model: Model, config: Any, within: SpecPath, named: NamedFile) -> SpecPath:
        """Where the user wrote a file's name: outputs may be written by name."""
        path = named.path
        if path[0] == "output" and isinstance(path[1], int) and isinstance(model.fields.get("output"), Mapping):
            path = ("output", config.output[path[1]].name, *path[2:])
        return (*within, *path)

    def _place_named(self, named: NamedFile, where: SpecPath) -> None:
        """Put a file that the configuration names where Triton looks for it; the spec gives a path of its own."""
        folders = (named.folder,) if named.folder is not None else self._numbers
        places = [f"{folder}/{named.name}" if folder else named.name for folder in folders]
        if all(place in self._held for place in places) and not named.absolute:
            return
        file = self._around.directory / named.name
        if not is_file(file):
            searched = named.absolute and "/" not in named.name
            if self._around.check and not searched:
                self._fault(where, f"there is no file {file}")
            return
        if named.absolute and Path(named.name).is_absolute():
            return
        self._read(file, where)
        for folder in folders:
            self._hold(f"{folder}/{file.name}" if folder else file.name, file, where)
        if named.absolute:
            # The backend hands the name to the dynamic linker, which knows nothing of the model's folder.
            named.rename(os.path.abspath(self._around.repository / self.name / file.name))
        else:
            named.rename(file.name)

    def _place_variant(self, variant: str, said: str | Mapping[str, Any]) -> None:
        where: SpecPath = ("configs", variant)
        if not isinstance(said, str):
            self.variants[variant] = self._configured(differing(self._model, said), where)
            return
        file = self._around.directory / said
        if not is_file(file):
            self._fault(where, f"there is no file {file}")
            return
        self._read(file, where)
        self._hold(f"{CONFIGS}/{variant}.pbtxt", file, where)
        if self._around.check:
            try:
                parse(file.read_text(encoding="utf-8"))
            except (text_format.ParseError, UnicodeDecodeError, OSError) as error:
                self._fault(where, f"{file} is no ModelConfig: {error}")

    def _keep_empty_versions(self) -> None:
        for number in self._numbers:
            if not any(path.startswith(f"{number}/") for path in self._held):
                path = f"{number}/{EMPTY_FOLDER}"
                self._held[path] = RepositoryFile(f"{self.name}/{path}", content=b"")

    def _check_places(self) -> None:
        rendered = {"config.pbtxt": (), **{f"{CONFIGS}/{name}.pbtxt": ("configs", name) for name in self.variants}}
        for path in sorted(rendered.keys() & self._held.keys()):
            source = self._held[path].source
            where = rendered[path] or self._named_by(source)
            self._fault(where, f"{source} would be {self.name}/{path}, which is written from the fields; rename it")
        paths = {*self._held, *rendered}
        for path in sorted(paths):
            above = next((path[:end] for end in range(len(path)) if path[end] == "/" and path[:end] in paths), None)
            if above is not None:
                self._fault((), f"{self.name}/{above} would be a file and the folder of {self.name}/{path}; rename one")
        if self._around.check:
            for folder in sorted({path.partition("/")[0] for path in self._held if "/" in path}):
                if _LIKE_A_VERSION.match(folder) and not folder.startswith("0") and not is_version(folder):
                    self._fault(("files",), f"Triton would take the folder '{folder}' for a version; rename it")

    def _named_by(self, source: Path | None) -> SpecPath:
        return self.sources[source][2:] if source in self.sources else ()

    def _check_samples(self) -> None:
        known = {tensor.name for tensor in self.config.input}
        for tensor in self._model.samples:
            if known and tensor not in known:
                self._fault(("samples", tensor), f"the model has no input '{tensor}'{nearest(tensor, known)}")
