"""The models of a repository as servers are planned from them: what lies in their folders, and what they say."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from tritonkit.errors import Fault, SpecError, TritonkitError

CONFIG = "config.pbtxt"
VARIANTS = "configs"


@dataclass(frozen=True)
class StoredModel:
    """One model of a repository.

    Attributes:
        name: the name of its folder.
        folder: its folder.
        entries: what lies directly in it, without its configurations.
        configs: the text of each of its configurations, by its path in the folder; it may have none.
    """

    name: str
    folder: Path
    entries: tuple[str, ...] = ()
    configs: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def config(self) -> Any:
        """Its ModelConfig; an empty one where it has no config.pbtxt.

        Raises:
            SpecError: the file is no ModelConfig.
        """
        return self._parsed(CONFIG) if CONFIG in self.configs else self._empty()

    @property
    def members(self) -> tuple[str, ...]:
        """The models that it runs, where it is an ensemble."""
        return tuple(step.model_name for step in self.config.ensemble_scheduling.step)

    @property
    def is_sequential(self) -> bool:
        """Whether the requests of one sequence must reach one server."""
        return bool(self.config.HasField("sequence_batching"))

    @property
    def backend(self) -> str:
        """The backend that loads it; empty where neither its configuration nor its files say."""
        from tritonkit.modelconfig.platforms import normalize

        return "" if self.config.platform == "ensemble" else normalize(self.name, self.config, None).backend

    def groups_on(self, gpu: int, config: Any = None) -> list[Any] | None:
        """Its instance groups on one GPU, as a server that sees that GPU alone, as 0, has to be told of them.

        None where it states no groups: Triton then makes one instance. Empty where all of them are on other GPUs.
        """
        config = self.config if config is None else config
        if not config.instance_group:
            return None
        found = []
        for stated in config.instance_group:
            if stated.gpus and gpu not in stated.gpus:
                continue
            group = type(stated)()
            group.CopyFrom(stated)
            if group.gpus:
                group.gpus[:] = [0]
            found.append(group)
        return found

    def instances_on(self, gpu: int, *, computing_there: bool = False) -> int:
        """How many instances it has on one GPU; those on the CPU are left out where only ``computing_there`` count."""
        groups = self.groups_on(gpu)
        if groups is None:
            return 1
        return sum(group.count or 1 for group in groups if not (computing_there and group.kind == type(group).KIND_CPU))

    def configs_for(self, gpu: int | None) -> dict[str, str]:
        """Its configurations for a server that sees one GPU alone, or as they are for a server without one."""
        return {path: text if gpu is None else self._localized(path, gpu) for path, text in self.configs.items()}

    def _localized(self, path: str, gpu: int) -> str:
        config = self.config if path == CONFIG else self._parsed(path)
        if not any(group.gpus for group in config.instance_group):
            return self.configs[path]
        from tritonkit.modelconfig.text import Renderer

        local = type(config)()
        local.CopyFrom(config)
        del local.instance_group[:]
        local.instance_group.extend(self.groups_on(gpu, config) or ())
        return Renderer(f"from {self.folder / path}, for GPU {gpu} alone").render(local)

    def _parsed(self, path: str) -> Any:
        from google.protobuf.text_format import ParseError

        from tritonkit.modelconfig.text import parse

        try:
            return parse(self.configs[path])
        except ParseError as error:
            words = str(error).split(" : ", 1)[-1]
            raise SpecError(
                [Fault(str(self.folder / path), error.GetLine() or 0, "", f"is no ModelConfig: {words}")]
            ) from None

    @staticmethod
    def _empty() -> Any:
        from tritonkit.modelconfig import protobuf

        return protobuf.empty()


def stored_models(repository: Path, names: Iterable[str]) -> dict[str, StoredModel]:
    """The models of a repository that is built, by name.

    Raises:
        TritonkitError: a folder or a configuration cannot be read.
    """
    try:
        return {name: _stored(repository.absolute() / name) for name in names}
    except (OSError, UnicodeDecodeError) as error:
        raise TritonkitError(f"{repository}: a model's configuration cannot be read: {error}") from error


def _stored(folder: Path) -> StoredModel:
    found = [path for path in (folder / CONFIG, *sorted((folder / VARIANTS).glob("*.pbtxt"))) if path.is_file()]
    return StoredModel(
        name=folder.name,
        folder=folder,
        entries=tuple(sorted(entry.name for entry in folder.iterdir() if entry.name not in (CONFIG, VARIANTS))),
        configs={path.relative_to(folder).as_posix(): path.read_text(encoding="utf-8") for path in found},
    )


def with_members(names: Iterable[str], models: Mapping[str, StoredModel]) -> tuple[str, ...]:
    """The models of these names, and those that their ensembles run, in the order of the repository."""
    wanted: set[str] = set()
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        if name in models and name not in wanted:
            wanted.add(name)
            waiting += models[name].members
    return tuple(name for name in models if name in wanted)
