"""Checking the models of a spec, or of a repository that stands on disk, by Triton's rules."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path as FilePath
from typing import Any

from tritonkit.artifacts.onnx_file import read_signature
from tritonkit.artifacts.signature import UnreadableArtifact
from tritonkit.errors import Fault, SpecError
from tritonkit.modelconfig.checking import check
from tritonkit.modelconfig.findings import Finding, Severity
from tritonkit.modelconfig.lines import line_at, lines_of
from tritonkit.modelconfig.rules.identity import served_versions
from tritonkit.modelconfig.rules.rule import Machine, Place, Subject
from tritonkit.repository import origins, resolution
from tritonkit.repository.existing import CONFIG, ExistingModel, read
from tritonkit.repository.model_folder import ModelFolder
from tritonkit.repository.surroundings import Surroundings
from tritonkit.spec.faults import Path, dotted
from tritonkit.spec.loading import LoadedSpec, load
from tritonkit.spec.schema import Model

UNUSABLE = "SPEC"
"""The code of what keeps a spec, or a model of a repository, from being read at all."""

BUNDLED = Machine(
    release=(24, 10),
    backends=frozenset({"python", "onnxruntime", "pytorch", "tensorrt"}),
    agents=frozenset(),
    python_based=True,
)
"""The server that comes with ``pip install 'tritonkit[server]'``."""

_STEP_KEYS = {"model_name": "model", "input_map": "input", "output_map": "output"}


@dataclass(frozen=True, order=True)
class Located:
    """A finding, and the line that it is about.

    Attributes:
        file: the spec, or a model's config.pbtxt.
        line: the line, from 1; 0 for the file as a whole.
        path: the dotted path of the value.
        code: the rule's code; ``SPEC`` where the spec or the configuration cannot be used at all.
        severity: how much it matters.
        message: what is wrong.
        triton: what Triton would say; empty where it says nothing.
        instead: what to write instead; may be empty.
    """

    file: str
    line: int
    path: str
    code: str
    severity: Severity
    message: str
    triton: str
    instead: str


@dataclass(frozen=True)
class Inspection:
    """Everything that was found.

    Attributes:
        models: how many models were checked.
        findings: what was found, in order of file and line.
    """

    models: int
    findings: tuple[Located, ...]

    @property
    def refused(self) -> bool:
        """Whether Triton would refuse one of the models."""
        return bool(self.errors)

    @property
    def errors(self) -> tuple[Located, ...]:
        """What Triton would refuse."""
        return tuple(finding for finding in self.findings if finding.severity is Severity.ERROR)

    def count(self, severity: Severity) -> int:
        """How many findings there are of one severity."""
        return sum(finding.severity is severity for finding in self.findings)


def inspect_spec(
    files: Sequence[FilePath],
    assignments: Sequence[str],
    environment: Mapping[str, str],
    machine: Machine,
    *,
    artifacts: bool = True,
) -> Inspection:
    """Check every model of a spec.

    Args:
        files: the spec, then its overlays.
        assignments: ``PATH=VALUE`` options, applied last.
        environment: where ``${NAME}`` is looked up.
        machine: what is known of the server.
        artifacts: whether sources and other files are looked at, and have to be there.

    Raises:
        SpecError: the spec cannot be read as YAML, or it has no models at all.
        ArtifactsMissing: something has yet to be made, and artifacts are to be looked at.
    """
    planned = origins.plan(load(files, assignments, environment))
    # Faults of the spec are found all the same: they may be why nothing can be made.
    made = resolution.made_before(planned) if artifacts and not planned.loaded.faults else {}
    loaded = resolution.rewrite(planned, made).loaded
    surroundings = Surroundings(loaded.directory, loaded.repository, artifacts, loaded.faults, sources=artifacts)
    folders = [ModelFolder(name, model, surroundings) for name, model in loaded.spec.models.items()]
    found = [
        _located(finding, *loaded.faults.origin(finding.path))
        for finding in spec_findings(loaded, folders, machine, artifacts=artifacts)
    ]
    found.extend(_unusable(fault) for fault in loaded.faults.found)
    return Inspection(len(folders), tuple(sorted(found)))


def spec_findings(
    loaded: LoadedSpec, folders: Iterable[ModelFolder], machine: Machine, *, artifacts: bool = True
) -> list[Finding]:
    """What the rules find in the planned folders of a spec; nothing of what is reported as a fault already."""
    faults = loaded.faults
    subjects: list[Subject] = []
    variants: list[Subject] = []
    for folder in folders:
        model = loaded.spec.models[folder.name]
        # A model at fault may lack files or fields that it would have.
        files = _planned_files(folder) if artifacts and not faults.within(("models", folder.name)) else None
        subjects.append(_subject(folder, model, folder.config, (), files, machine))
        for name, config in folder.variants.items():
            variants.append(_subject(folder, model, config, ("configs", name), files, machine))
    found = check(subjects, variants)
    return [finding for finding in found if not faults.within(finding.path)]


def _subject(
    folder: ModelFolder, model: Model, config: Any, within: Path, files: Mapping[str, int] | None, machine: Machine
) -> Subject:
    def locate(place: Place) -> Path:
        return ("models", folder.name, *within, *written(model, config, place))

    subject = Subject(folder.name, config, machine, files, folder.signature, locate=locate)
    if files is None or subject.normal.backend != "python":
        return subject
    latest = f"{folder.name}/{max(served_versions(subject), default=0)}/{subject.normal.filename}"
    code = next((file.source for file in folder.files if file.path == latest), None)
    return replace(subject, completes=_completes(config, code))


def written(model: Model, config: Any, place: Place) -> Path:
    """Where the user wrote what stands at a place of the ModelConfig: the short forms have paths of their own."""
    match place:
        case (("input" | "output") as role, int(index), *rest) if isinstance(model.fields.get(role), Mapping):
            return (role, getattr(config, role)[index].name, *rest)
        case ("ensemble_scheduling", "step", int(index), key, *rest) if model.ensemble is not None:
            return ("ensemble", index, _STEP_KEYS.get(str(key), key), *rest)
        case (("ensemble_scheduling" | "platform"), *rest) if model.ensemble is not None:
            return ("ensemble", *(part for part in rest if part != "step"))
    return place


def _planned_files(folder: ModelFolder) -> dict[str, int]:
    """The files that the folder will have, with their sizes."""
    sizes: dict[str, int] = {}
    for file in folder.files:
        path = file.path.split("/", 1)[1]
        sizes[path] = len(file.content) if file.content is not None else _size(file.source)
    return sizes


def _size(file: FilePath | None) -> int:
    try:
        return file.stat().st_size if file is not None else 0
    except OSError:
        return 0


def inspect_repository(directory: FilePath, machine: Machine, *, artifacts: bool = True) -> Inspection:
    """Check every model of a repository that stands on disk.

    Args:
        directory: the repository.
        machine: what is known of the server.
        artifacts: whether the models' files are looked at, and have to be there.

    Raises:
        SpecError: it is no model repository at all.
    """
    repository = read(directory)
    subjects = [_existing_subject(model, machine, artifacts=artifacts) for model in repository.models]
    folders = {model.name: model.folder for model in repository.models}
    lines: dict[str, Mapping[Place, int]] = {}
    found = [_unusable(fault) for fault in repository.faults]
    for finding in check(subjects):
        name, place = str(finding.path[0]), finding.path[1:]
        file = folders[name] / CONFIG
        if name not in lines:
            lines[name] = _lines(file)
        found.append(_located(finding, str(file), line_at(lines[name], place) if file.is_file() else 0))
    return Inspection(len(repository.models) + len(repository.faults), tuple(sorted(found)))


def _existing_files(model: ExistingModel) -> dict[str, int]:
    sizes = {path: _size(model.folder / path) for path in model.files}
    return {**{f"{version}/": 0 for version in model.versions}, **sizes}


def _existing_subject(model: ExistingModel, machine: Machine, *, artifacts: bool) -> Subject:
    def locate(place: Place) -> Path:
        return (model.name, *place)

    subject = Subject(model.name, model.config, machine, locate=locate)
    return _with_artifact(replace(subject, files=_existing_files(model)), model.folder) if artifacts else subject


def _with_artifact(subject: Subject, folder: FilePath) -> Subject:
    """The model with what the artifact of its latest version says of inputs and outputs."""
    versions = served_versions(subject)
    backend = subject.normal.backend
    if not versions or backend not in ("onnxruntime", "python"):
        return subject
    artifact = folder / str(versions[-1]) / subject.normal.filename
    if backend == "python":
        return replace(subject, completes=_completes(subject.config, artifact))
    try:
        return replace(subject, signature=read_signature(artifact))
    except UnreadableArtifact as error:
        return replace(subject, unreadable=str(error))
    except OSError:
        # A file that is not there is a finding of its own.
        return subject


def _completes(config: Any, code: FilePath | None) -> bool:
    """Whether a Python model may state what its configuration does not. The code is read, not run."""
    tensors = [*config.input, *config.output]
    if code is None or (config.input and config.output and all(each.dims and each.data_type for each in tensors)):
        return False
    try:
        return b"def auto_complete_config" in code.read_bytes()
    except OSError:
        return False


def _lines(file: FilePath) -> Mapping[Place, int]:
    try:
        return lines_of(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError):
        return {}


def unreadable(error: SpecError) -> Inspection:
    """What there is to say of a spec that cannot be read."""
    return Inspection(0, tuple(_unusable(fault) for fault in error.faults))


def _located(finding: Finding, file: str, line: int) -> Located:
    return Located(
        file,
        line,
        dotted(finding.path),
        finding.code,
        finding.severity,
        finding.message,
        finding.triton,
        finding.instead,
    )


def _unusable(fault: Fault) -> Located:
    return Located(fault.file, fault.line, fault.path, UNUSABLE, Severity.ERROR, fault.message, "", "")


def refusals(loaded: LoadedSpec, folders: Iterable[ModelFolder]) -> list[tuple[Path, str]]:
    """What Triton would refuse of the planned folders of a spec, on any machine: paths and messages for faults."""
    return [
        (finding.path, f"{finding.message} ({finding.code}); write: {finding.instead}")
        for finding in spec_findings(loaded, folders, Machine())
        if finding.refuses
    ]
