"""Where every model of a spec comes from, and what has to be made of it: a plan, which makes nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

from tritonkit.artifacts import fetch
from tritonkit.artifacts.recipes import Download, PlanRecipe, Tolerances, TorchRecipe
from tritonkit.errors import nearest
from tritonkit.modelconfig.configure import configure
from tritonkit.repository import statement
from tritonkit.repository.placement import FILENAMES, backend_of, is_there
from tritonkit.spec.export import Export, FileSource, ModelSource, TorchSource
from tritonkit.spec.faults import Faults
from tritonkit.spec.faults import Path as SpecPath
from tritonkit.spec.loading import LoadedSpec
from tritonkit.spec.schema import Model
from tritonkit.spec.sizes import size_in_bytes
from tritonkit.tools import digests, nvidia_smi

Origin: TypeAlias = Path | Download | TorchRecipe | PlanRecipe
"""Where a model's files come from: a path as it is, a file to fetch, or an artifact to make."""

AnySource: TypeAlias = str | FileSource | TorchSource | ModelSource


@dataclass(frozen=True)
class Origins:
    """Where the models of a spec come from.

    Attributes:
        loaded: the spec as it is written.
        origins: the origin of every source, by its place: the model's name, with ``/2`` for one of version 2.
        backends: the backend of every model that has one, where it is known.
        here: the compute capabilities of the GPUs here, where plans are built for them; None where none is.
    """

    loaded: LoadedSpec
    origins: Mapping[str, Origin]
    backends: Mapping[str, str | None]
    here: tuple[str, ...] | None

    @property
    def work(self) -> dict[str, Download | TorchRecipe | PlanRecipe]:
        """What has to be fetched or made, by place, whether it is there already or not."""
        return {name: origin for name, origin in self.origins.items() if not isinstance(origin, Path)}

    def only(self, names: Sequence[str]) -> Origins:
        """The origins of some models; of all where none is named. An unknown one is a fault of the spec."""
        for name in names:
            if name not in self.loaded.spec.models:
                message = f"there is no model '{name}'{nearest(name, self.loaded.spec.models)}"
                self.loaded.faults.add(("models",), message)
        chosen = {name: origin for name, origin in self.origins.items() if not names or name.partition("/")[0] in names}
        return replace(self, origins=chosen)


def sources_of(model: Model) -> list[tuple[str | None, AnySource]]:
    """The sources of a model, each with its version: None for the model's own; the latest version comes last."""
    if model.ensemble:
        return []
    if model.versions is not None:
        ordered = sorted(model.versions.items(), key=lambda item: int(item[0]))
        return [(number, source) for number, source in ordered if source is not None]
    return [] if model.source is None else [(None, model.source)]


def plan(loaded: LoadedSpec) -> Origins:
    """Find out where every model of a spec comes from. Reads little, makes nothing; faults are added to the spec's."""
    planner = _Planner(loaded)
    for name in loaded.spec.models:
        planner.model(name)
    origins = {name: origin for name, origin in planner.origins.items() if origin is not None}
    return Origins(loaded, origins, planner.backends, planner.here)


def torch_recipe(origin: Origin) -> TorchRecipe | None:
    """The conversion of a torch module that an origin is or begins with, if there is one."""
    first = origin.onnx if isinstance(origin, PlanRecipe) else origin
    return first if isinstance(first, TorchRecipe) else None


@dataclass(frozen=True)
class _Place:
    """Where a source stands: the model's own, or that of one of its versions."""

    name: str
    number: str | None

    @property
    def key(self) -> str:
        return self.name if self.number is None else f"{self.name}/{self.number}"

    def path(self, key: str) -> SpecPath:
        """The place of ``source``, of something in it, or of another key of the model."""
        first, *others = key.split(".")
        if first == "source" and self.number is not None:
            return ("models", self.name, "versions", self.number, *others)
        return ("models", self.name, first, *others)


class _Planner:
    """Origins by place, each found once."""

    def __init__(self, loaded: LoadedSpec) -> None:
        self.origins: dict[str, Origin | None] = {}
        self.backends: dict[str, str | None] = {}
        self.here: tuple[str, ...] | None = None
        self._models = loaded.spec.models
        self._directory = loaded.directory
        self._faults = loaded.faults
        self._under_way: list[str] = []

    def _fault(self, place: _Place, key: str, message: str) -> None:
        self._faults.add(place.path(key), message)

    def model(self, name: str) -> Origin | None:
        """Find the origins of a model, each once; that of its latest version comes back."""
        model, origin = self._models[name], None
        places = [_Place(name, number) for number, _ in sources_of(model)]
        if all(place.key in self.origins for place in places):
            return self.origins[places[-1].key] if places else None
        self._under_way.append(name)
        for place, (_, source) in zip(places, sources_of(model), strict=True):
            origin = self.origins[place.key] = self._origin(place, model, source)
        self._under_way.pop()
        made = any(isinstance(self.origins[place.key], TorchRecipe | PlanRecipe) for place in places)
        if origin is not None and model.export != Export() and not made:
            self._fault(places[0], "export", "has no effect: the source is what Triton loads, nothing is made from it")
        return origin

    def _origin(self, place: _Place, model: Model, source: AnySource) -> Origin | None:
        if isinstance(source, TorchSource):
            return self._from_torch(place, model, source)
        return self._from_file(place, model, source)

    def _backend(self, place: _Place, model: Model, source: Path | None) -> str | None:
        stated = [str(model.fields.get(key) or "") for key in ("backend", "platform")]
        self.backends[place.name] = backend_of(source, *stated)
        return self.backends[place.name]

    def _from_torch(self, place: _Place, model: Model, source: TorchSource) -> Origin | None:
        known = {"onnxruntime": "model.onnx", "tensorrt": "model.onnx", "pytorch": "model.pt"}
        chosen = "pytorch" if model.export.format else "onnxruntime"
        backend = self._backend(place, model, None) or chosen
        self.backends[place.name] = backend
        if backend not in known:
            message = f"a torch module can be exported for the backends {', '.join(sorted(known))}, not for {backend}"
            self._fault(place, "source", message)
            return None
        if model.export.format and backend != "pytorch":
            self._fault(place, "export.format", f"is for backend pytorch; {backend} is given ONNX")
            return None
        filename: Any = "model.pt2" if model.export.format == "pt2" else known[backend]
        recipe = self._torch_recipe(place, model, source, filename)
        return self._plan_recipe(place, model, recipe) if recipe and backend == "tensorrt" else recipe

    def _from_file(self, place: _Place, model: Model, source: str | FileSource | ModelSource) -> Origin | None:
        given = self._sibling(place, source) if isinstance(source, ModelSource) else self._file(place, "source", source)
        if given is None:
            return None
        if isinstance(given, Path) and not is_there(given):
            # Said with the faults of the model's folder.
            return given
        path = _as_file(given)
        backend = self._backend(place, model, path)
        if backend == "tensorrt" and path.suffix == ".onnx" and not isinstance(given, PlanRecipe):
            if model.export.precision:
                self._fault(place, "export.precision", "is chosen where the ONNX file is made; this one is given")
            return self._plan_recipe(place, model, given)
        if isinstance(given, TorchRecipe | PlanRecipe) and not self._loads(backend, path.name):
            self._fault(
                place, "source", f"the sibling's artifact is {path.name}, which backend {backend} does not load"
            )
            return None
        return given

    @staticmethod
    def _loads(backend: str | None, filename: str) -> bool:
        wanted = FILENAMES.get(backend or "")
        return wanted is None or backend_of(Path(filename), "", "") == backend

    def _sibling(self, place: _Place, source: ModelSource) -> Origin | None:
        if source.model not in self._models:
            self._fault(
                place, "source.model", f"there is no model '{source.model}'{nearest(source.model, self._models)}"
            )
            return None
        if source.model in self._under_way:
            self._fault(place, "source.model", f"leads back to itself: {' -> '.join([*self._under_way, source.model])}")
            return None
        origin = self.model(source.model)
        if origin is None and not self._faults.within(("models", source.model)):
            self._fault(place, "source.model", f"'{source.model}' has no artifact of its own")
        return origin

    def _file(self, place: _Place, key: str, source: str | FileSource) -> Path | Download | None:
        text = source if isinstance(source, str) else source.file
        sha256 = None if isinstance(source, str) else source.sha256
        if fetch.is_url(text):
            if not fetch.filename(text):
                self._fault(place, key, f"{text} names no file")
                return None
            return Download(text, sha256)
        path = self._directory / text
        if sha256 is not None and path.is_file() and digests.of_file(path) != sha256.lower():
            message = f"{path} has the sha256 {digests.of_file(path)}, not {sha256.lower()}"
            self._fault(place, f"{key}.sha256", message)
            return None
        return path

    def _there(self, place: _Place, key: str, text: str | None) -> Path | None:
        if text is None:
            return None
        path = self._directory / text
        if not path.is_file():
            self._fault(place, key, f"there is no file {path}")
        return path

    def _torch_recipe(self, place: _Place, model: Model, source: TorchSource, filename: Any) -> TorchRecipe | None:
        config = self._configured(place.name, model)
        inputs = statement.tensors(config.input, config.max_batch_size)
        example = self._there(place, "source.example", source.example)
        if not inputs and example is None and not self._faults.within(("models", place.name, "input")):
            self._fault(place, "source", "a torch module does not tell its inputs: state 'input', or give an example")
            return None
        for tensor in inputs:
            if tensor.data_type == "TYPE_INVALID" or tensor.shape is None:
                self._fault(place, "input", f"'{tensor.name}' needs a data type and dims, as in \"FP32[3,224,224]\"")
                return None
        weights = self._file(place, "source.weights", source.weights) if source.weights is not None else None
        if isinstance(weights, Path) and not weights.is_file():
            self._fault(place, "source.weights", f"there is no file {weights}")
        export = model.export
        return TorchRecipe(
            directory=self._directory.resolve(),
            factory=source.torch,
            arguments=source.arguments,
            weights=weights,
            example=example,
            inputs=inputs,
            outputs=tuple(
                replace(tensor, data_type="" if tensor.data_type == "TYPE_INVALID" else tensor.data_type, shape=None)
                for tensor in statement.tensors(config.output, 0)
            ),
            filename=filename,
            precision=export.precision,
            opset=export.opset,
            external_data=export.external_data,
            asking=statement.asking(model, config, self._there(place, "export.inputs", model.export.inputs)),
            tolerances=Tolerances(**export.tolerance.model_dump()),
        )

    def _plan_recipe(self, place: _Place, model: Model, onnx: Path | Download | TorchRecipe) -> PlanRecipe | None:
        export = model.export
        capabilities = export.compute_capabilities
        if not capabilities:
            self.here = capabilities = nvidia_smi.compute_capabilities()
        if not capabilities:
            message = "there is no GPU here to build a plan for; name some, as in compute_capabilities: [8.9]"
            self._fault(place, "export", message)
            return None
        if isinstance(onnx, Path) and not onnx.is_file():
            self._fault(place, "source", f"there is no file {onnx}")
            return None
        config = self._configured(place.name, model)
        asking = statement.asking(model, config, self._there(place, "export.inputs", model.export.inputs))
        covered = [max(shapes.max[0] for shapes in profile.values()) for profile in asking.profiles if profile]
        if covered and config.max_batch_size > max(covered):
            message = f"the profiles cover batches up to {max(covered)}, max_batch_size is {config.max_batch_size}"
            self._fault(place, "export.profiles", message)
            return None
        return PlanRecipe(
            directory=self._directory.resolve(),
            onnx=onnx,
            compute_capabilities=tuple(dict.fromkeys(capabilities)),
            preferred_batch_sizes=tuple(config.dynamic_batching.preferred_batch_size),
            profiles=asking.profiles,
            builder_optimization_level=export.builder_optimization_level,
            workspace=None if export.workspace is None else size_in_bytes(export.workspace),
            version_compatible=export.version_compatible,
            hardware_compatibility_level=export.hardware_compatibility_level,
            precision=onnx.precision if isinstance(onnx, TorchRecipe) else None,
            asking=asking,
            tolerances=Tolerances(**export.tolerance.model_dump()),
        )

    def _configured(self, name: str, model: Model) -> Any:
        """The model's configuration as far as the spec states it; its faults are found again when it is laid out."""
        return configure(name, model, backend=None, signature=None, faults=Faults("", {}))


def _as_file(origin: Origin) -> Path:
    """The path, or the name that the file will have."""
    if isinstance(origin, Path):
        return origin
    if isinstance(origin, Download):
        return Path(fetch.filename(origin.url))
    return Path(origin.filename if isinstance(origin, TorchRecipe) else "model.plan")
