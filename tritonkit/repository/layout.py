"""From a loaded spec to the files of its repository. Reads artifacts; writes nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tritonkit.artifacts.onnx_file import read_signature
from tritonkit.artifacts.provenance import recorded_signature
from tritonkit.artifacts.signature import Signature, UnreadableArtifact
from tritonkit.modelconfig.configure import configure
from tritonkit.modelconfig.text import Renderer
from tritonkit.repository.placement import (
    FILENAMES,
    RepositoryFile,
    backend_of,
    version_files,
)
from tritonkit.spec.faults import Faults, nearest
from tritonkit.spec.loading import LoadedSpec
from tritonkit.spec.schema import Model, Spec

# Plans and TorchScript do not say themselves what they take: their records do, where tritonkit made them.
_READERS: dict[str, Callable[[Path], Signature | None]] = {
    "onnxruntime": read_signature,
    "tensorrt": recorded_signature,
    "pytorch": recorded_signature,
}

# Triton wants a version's folder even where an ensemble has nothing to put there, and git keeps no empty folder.
_EMPTY_FOLDER = ".gitkeep"


@dataclass(frozen=True)
class Layout:
    """A whole repository, planned.

    Attributes:
        files: every file, in order of its path.
        sources: every source that was read to plan them: files, and folders for which their list of files counts.
    """

    files: tuple[RepositoryFile, ...]
    sources: tuple[Path, ...]


def plan(loaded: LoadedSpec) -> Layout:
    """Plan the repository of a spec of which every source is a path.

    Raises:
        SpecError: the spec, or an artifact that it names, cannot be used. All faults are in it.
    """
    spec, faults = loaded.spec, loaded.faults
    files: list[RepositoryFile] = []
    sources: list[Path] = []
    configs: list[Any] = []
    _check_ensembles(spec, faults)
    for name, model in spec.models.items():
        placed = _Placed(name, model, loaded.directory, faults)
        configs.append(placed.config)
        files.extend(placed.files)
        sources.extend(placed.sources)
    faults.raise_if_any()
    renderer = Renderer(f"from {' + '.join(file.name for file in loaded.files)}")
    for config in configs:
        files.append(RepositoryFile(f"{config.name}/config.pbtxt", content=renderer.render(config).encode()))
    return Layout(tuple(sorted(files, key=lambda file: file.path)), tuple(dict.fromkeys(sources)))


def _check_ensembles(spec: Spec, faults: Faults) -> None:
    for name, model in spec.models.items():
        for index, step in enumerate(model.ensemble or ()):
            if step.model not in spec.models:
                where = ("models", name, "ensemble", index, "model")
                faults.add(where, f"there is no model '{step.model}'{nearest(step.model, spec.models)}")


class _Placed:
    """One model's configuration and files, with faults reported where they cannot be made."""

    def __init__(self, name: str, model: Model, directory: Path, faults: Faults) -> None:
        self.files: list[RepositoryFile] = []
        self.sources: list[Path] = []
        self._name = name
        self._directory = directory
        self._faults = faults
        source = self._source(model)
        stated = {key: str(model.fields.get(key) or "") for key in ("backend", "platform", "default_model_filename")}
        backend = None if model.ensemble else backend_of(source, stated["backend"], stated["platform"])
        signature = None
        if model.ensemble:
            self.files.append(RepositoryFile(f"{name}/1/{_EMPTY_FOLDER}", content=b""))
        elif source is not None:
            several = model.fields.get("cc_model_filenames")
            filenames = tuple(several.values()) if isinstance(several, Mapping) else ()
            signature = self._place(source, backend, stated["default_model_filename"], filenames)
        elif model.source is None and not faults.within(("models", name)):
            faults.add(("models", name), "has neither a source nor an ensemble; give it one of the two")
        self.config = configure(name, model, backend=backend, signature=signature, faults=faults)
        self._place_labels()
        self._check_samples(model)

    def _fault(self, key: str, message: str) -> None:
        self._faults.add(("models", self._name, key), message)

    def _source(self, model: Model) -> Path | None:
        if model.source is None:
            return None
        if model.ensemble:
            return None
        if not isinstance(model.source, str):
            return None
        source = self._directory / model.source
        if not source.exists():
            self._fault("source", f"there is no file or folder {source}")
            return None
        return source

    def _place(
        self, source: Path, backend: str | None, stated: str, by_capability: tuple[Any, ...]
    ) -> Signature | None:
        """Put the source into version 1; what it says of its inputs and outputs."""
        if backend is None:
            known = ", ".join(sorted(FILENAMES))
            self._fault("source", f"{source} does not tell its backend; state 'backend' (for example: {known})")
            return None
        filename = stated or FILENAMES.get(backend)
        try:
            held = version_files(source, filename)
        except OSError as error:
            self._fault("source", f"{source} cannot be read: {error.strerror}")
            return None
        if filename not in dict(held):
            filename = next((name for name in by_capability if name in dict(held)), filename)
        if filename is not None and filename not in dict(held):
            self._fault("source", f"{source} holds no {filename}, which the {backend} backend loads")
            return None
        self.sources.append(source)
        self.files.extend(RepositoryFile(f"{self._name}/1/{path}", source=file) for path, file in held)
        reader = _READERS.get(backend)
        artifact = dict(held).get(filename or "")
        if reader is None or artifact is None:
            return None
        try:
            return reader(artifact)
        except UnreadableArtifact as error:
            self._fault("source", f"{artifact} {error}")
        except OSError as error:
            self._fault("source", f"{artifact} cannot be read: {error.strerror}")
        return None

    def _place_labels(self) -> None:
        """Put label files beside config.pbtxt, where Triton looks for them; the spec gives paths of its own."""
        placed: dict[str, Path] = {}
        for output in self.config.output:
            if not output.label_filename:
                continue
            file = self._directory / output.label_filename
            if not file.is_file():
                self._fault("output", f"there is no label file {file} for '{output.name}'")
                continue
            if placed.setdefault(file.name, file) != file:
                self._fault("output", f"two label files have the name {file.name}; rename one")
            output.label_filename = file.name
        self.sources.extend(placed.values())
        self.files.extend(RepositoryFile(f"{self._name}/{name}", source=file) for name, file in placed.items())

    def _check_samples(self, model: Model) -> None:
        known = {tensor.name for tensor in self.config.input}
        for tensor in model.samples:
            if known and tensor not in known:
                where = ("models", self._name, "samples", tensor)
                self._faults.add(where, f"the model has no input '{tensor}'{nearest(tensor, known)}")
