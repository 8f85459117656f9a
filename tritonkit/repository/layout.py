"""From a loaded spec to the files of its repository. Reads artifacts; writes nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tritonkit.modelconfig.text import Renderer
from tritonkit.repository.inspection import refusals
from tritonkit.repository.model_folder import ModelFolder
from tritonkit.repository.named_files import CONFIGS
from tritonkit.repository.placement import RepositoryFile
from tritonkit.repository.surroundings import Surroundings
from tritonkit.spec.faults import Path as SpecPath
from tritonkit.spec.loading import LoadedSpec


@dataclass(frozen=True)
class Layout:
    """A whole repository, planned.

    Attributes:
        files: every file, in order of its path.
        sources: every source that was read to plan them: files, and folders for which their list of files counts.
            Each with the path in the spec that names it.
    """

    files: tuple[RepositoryFile, ...]
    sources: Mapping[Path, SpecPath]


def plan(
    loaded: LoadedSpec, *, repository: Path | None = None, check: bool = True, templates: Path | None = None
) -> Layout:
    """Plan the repository of a spec.

    Args:
        loaded: the spec.
        repository: where it will stand; None for where the spec wants it.
        check: whether to refuse what Triton would refuse.
        templates: a folder of templates that go before tritonkit's own.

    Raises:
        SpecError: the spec, or an artifact that it names, cannot be used. All faults are in it.
    """
    faults = loaded.faults
    surroundings = Surroundings(loaded.directory, repository or loaded.repository, check, faults)
    folders = [ModelFolder(name, model, surroundings) for name, model in loaded.spec.models.items()]
    if check:
        for where, message in refusals(loaded, folders):
            faults.add(where, message)
    faults.raise_if_any()
    renderer = Renderer(f"from {' + '.join(file.name for file in loaded.files)}", templates)
    files: list[RepositoryFile] = []
    for folder in folders:
        files.extend(folder.files)
        configs = {"config.pbtxt": folder.config}
        configs.update({f"{CONFIGS}/{name}.pbtxt": config for name, config in folder.variants.items()})
        for path, config in configs.items():
            files.append(RepositoryFile(f"{folder.name}/{path}", content=renderer.render(config).encode()))
    sources = {source: where for folder in reversed(folders) for source, where in folder.sources.items()}
    return Layout(tuple(sorted(files, key=lambda file: file.path)), sources)
