"""From a study's file to its plan, with every fault of the file collected on the way."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path as FilePath
from typing import Any, TypeVar

from tritonkit.bench import study_arrivals
from tritonkit.bench.axes import GPUS, Deployment, check_paths, combined
from tritonkit.bench.levels import (
    Level,
    levels,
)
from tritonkit.bench.plan import Item, Plan, Service, Target
from tritonkit.bench.preparation import Wish
from tritonkit.bench.study_loads import Sections
from tritonkit.bench.study_schema import Endpoint, Experiment, LoadKeys, Measuring, StudyKeys, Together, Variant
from tritonkit.errors import SpecError, nearest
from tritonkit.spec import overlay
from tritonkit.spec.document import Document, read
from tritonkit.spec.faults import Faults, Path, shown
from tritonkit.spec.loading import validated

T = TypeVar("T")
DISTRIBUTIONS = ("constant", "poisson")
_INHERITED = ("models", "load", "deployment", "variants", "together", "endpoints")


def read_study(
    files: Sequence[FilePath], assignments: Sequence[str], environment: Mapping[str, str], folder: FilePath
) -> Plan:
    """The plan of a study in files: the study, then overlays.

    Args:
        files: the study's file, then its overlays.
        assignments: ``PATH=VALUE`` options, applied last.
        environment: where ``${NAME}`` is looked up.
        folder: the folder of the results, for the files that perf_analyzer reads.

    Raises:
        SpecError: every fault that was found, with its line.
    """
    documents = [read(file, environment) for file in files]
    document = overlay.merge([*documents, *(overlay.assignment(option, environment) for option in assignments)])
    return _Reading(document, files[0], environment, folder).plan()


class _Reading(Sections):
    """One study on its way from YAML to a plan."""

    def __init__(self, document: Document, file: FilePath, environment: Mapping[str, str], folder: FilePath) -> None:
        super().__init__(folder, Faults(document.file, document.origins))
        self.raw = document.value
        self.start = file.parent
        self.environment = environment
        self.stem = file.stem
        self.spec: Mapping[str, Any] | None = None

    def plan(self) -> Plan:
        keys: StudyKeys | None = validated(StudyKeys, dict(self.raw), (), self.faults)
        if keys is None:
            self.faults.raise_if_any()
            raise AssertionError("a study that is refused has a fault")
        target = self.target(keys)
        known = self.models(keys)
        self.arrivals = study_arrivals.read_arrivals(keys.arrivals, self.start, self.faults)
        parts: dict[str, Any] = {"": {}} if keys.experiments is None else keys.experiments
        items: list[Item] = []
        services: list[Service] = []
        for name, raw in parts.items():
            where: Path = ("experiments", name) if name else ()
            own = self.checked(Experiment, raw, where) if name else keys
            if own is None:
                continue
            # What an experiment leaves out is the study's; places stay those where it was written.
            given = {
                key: (getattr(own, key), where) if getattr(own, key) is not None else (getattr(keys, key), ())
                for key in _INHERITED
            }
            items += self.items(name, given, known, keys.seed)
            services += self.services(name, given, keys)
        self.faults.raise_if_any()
        measuring = self.checked(Measuring, keys.measurement or {}, ("measurement",)) or Measuring()
        self.faults.raise_if_any()
        given_inputs = {
            name: self.value(value) if isinstance(value, str) else json.dumps(value)
            for name, value in keys.input.items()
        }
        wish = Wish(
            given_inputs, keys.shape, keys.seed, measuring.interval_ms, measuring.stability_percentage,
            measuring.max_trials,
        )  # fmt: skip
        if not items and not services:
            self.faults.add((), "there is nothing to measure: give models with a load, together or endpoints")
            self.faults.raise_if_any()
        return Plan(
            name=keys.name or self.stem,
            document=self.raw,
            target=target,
            items=tuple(dict.fromkeys(items)),
            wish=wish,
            warmup=float(keys.warmup),
            repeats=keys.repeats,
            seed=keys.seed,
            files=self.files,
            services=tuple(services),
        )

    def value(self, text: str) -> str:
        """A text for an input; a path in it starts from the study's folder."""
        if not text.startswith("@"):
            return text
        return f"@{self.start / text[1:]}"

    def target(self, keys: StudyKeys) -> Target:
        named = [key for key in ("spec", "repository", "url") if getattr(keys, key) is not None]
        if len(named) > 1:
            self.faults.add((named[1],), f"a study measures one thing, and {named[0]} is given as well")
        for key in ("grpc_url", "token_file", "ca_certificate"):
            if getattr(keys, key) is not None and keys.url is None:
                self.faults.add((key,), "it is about a server that runs: give url as well")
        texts = [keys.spec] if isinstance(keys.spec, str) else keys.spec or []
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            self.faults.add(("spec",), "expected a path, or a list of the spec and its overlays")
            texts = []
        files = tuple(self.start / text for text in texts)
        repository = None if keys.repository is None else self.start / keys.repository
        if files:
            try:
                merged = overlay.merge([read(file, self.environment) for file in files])
                self.spec = merged.value
            except SpecError as error:
                for fault in error.faults:
                    self.faults.add(("spec",), str(fault))
        token_file = None if keys.token_file is None else self.start / keys.token_file
        ca_certificate = None if keys.ca_certificate is None else self.start / keys.ca_certificate
        return Target(files, repository, keys.url, keys.grpc_url, token_file, ca_certificate)

    def models(self, keys: StudyKeys) -> list[str]:
        """The models of the spec; none where there is no spec to look into."""
        known = list((self.spec or {}).get("models") or {})
        if keys.models is None and not known and self.raw.get("experiments") is None and not keys.together:
            self.faults.add((), "name the models to measure, with 'models'")
        return known

    def items(
        self, experiment: str, given: Mapping[str, tuple[Any, Path]], known: Sequence[str], seed: int
    ) -> list[Item]:
        deployments = self.deployments(given["deployment"], given["variants"])
        found: list[Item] = []
        raw, where = given["load"]
        named, models_at = given["models"]
        together, together_at = given["together"]
        endpoints, endpoints_at = given["endpoints"]
        if endpoints and models_at != endpoints_at:
            # A part with endpoints is about them; models it measures only where it names some.
            named = None
        names = list(named or (() if endpoints else known))
        for index, name in enumerate(named or ()):
            if known and name not in known:
                self.faults.add((*models_at, "models", index), f"the spec has no model '{name}'{nearest(name, known)}")
        if names and (raw is not None or not (together or endpoints)):
            axes = self.axes(raw or {}, (*where, "load"))
            if axes is not None:
                found += [
                    Item(deployment, (level,), experiment=experiment)
                    for deployment in deployments
                    for level in levels(names, axes)
                ]
        for index, one in enumerate(together or ()):
            group = self.group(one, (*together_at, "together", index), known, seed)
            if group is None:
                continue
            title, parts = group
            for deployment in deployments:
                # Each alone first: what the others do to it is told against that.
                found += [Item(deployment, (level,), experiment=experiment) for level in parts]
                found.append(Item(deployment, tuple(parts), title, experiment))
        return found

    def deployments(self, axes: tuple[Any, Path], variants: tuple[Any, Path]) -> list[Deployment]:
        values: dict[str, list[Any]] = {}
        for path, raw in (axes[0] or {}).items():
            where = (*axes[1], "deployment", path)
            if not isinstance(raw, list) or not raw:
                self.faults.add(where, f"expected a list of values to try, found {shown(raw)}")
            elif path == GPUS and not all(isinstance(one, list) for one in raw):
                self.faults.add(where, "expected lists of GPUs, as in [[0], [0, 1]]")
            else:
                values[path] = raw
        named: list[tuple[str, Mapping[str, Any]]] = []
        for index, raw in enumerate(variants[0] or ()):
            variant = self.checked(Variant, raw, (*variants[1], "variants", index))
            if variant is not None and variant.name in [name for name, _ in named]:
                self.faults.add((*variants[1], "variants", index), f"a second variant with the name '{variant.name}'")
            elif variant is not None:
                named.append((variant.name, variant.set))
        if self.spec is not None:
            check_paths(values, self.spec, (*axes[1], "deployment"), self.faults)
            for index, (_, fields) in enumerate(named):
                check_paths(fields, self.spec, (*variants[1], "variants", index, "set"), self.faults)
        elif values or named:
            self.faults.add(("deployment",), "fields of a spec are varied, and the study names no spec")
        return combined(values, named)

    def group(self, raw: Any, where: Path, known: Sequence[str], seed: int) -> tuple[str, list[Level]] | None:
        keys = self.checked(Together, raw, where)
        if keys is None:
            return None
        before = len(self.faults)
        names = list(keys.models) if isinstance(keys.models, (dict, list)) else []
        for name in names:
            if known and name not in known:
                self.faults.add((*where, "models"), f"the spec has no model '{name}'{nearest(str(name), known)}")
        if len(set(names)) < 2:
            self.faults.add((*where, "models"), "expected two models or more: they are loaded together")
        parts: list[Level] = []
        if keys.workload is not None:
            found = study_arrivals.read_workload(
                keys.workload, [str(name) for name in names], seed, self.start, (*where, "workload"), self.faults
            )
            for name, (times, seconds) in found.items():
                load, text = study_arrivals.as_load(keys.name, times, seconds, self.folder)
                self.files[load.file] = text
                parts.append(Level(name, load))
        elif isinstance(keys.models, dict):
            for name, load in keys.models.items():
                axes = self.axes(load, (*where, "models", name))
                of_model = levels([name], axes) if axes is not None else []
                if len(of_model) > 1:
                    self.faults.add((*where, "models", name), "expected one load: models together take no axes")
                parts += of_model
        else:
            self.faults.add((*where, "models"), "expected models with their loads, or a workload over their names")
        return (keys.name, parts) if len(self.faults) == before else None

    def services(self, experiment: str, given: Mapping[str, tuple[Any, Path]], keys: StudyKeys) -> list[Service]:
        names, where = given["endpoints"]
        found = []
        for index, name in enumerate(names or ()):
            if name not in keys.services:
                at = (*where, "endpoints", index)
                self.faults.add(at, f"the study has no service '{name}'{nearest(name, keys.services)}")
                continue
            service = self.checked(Endpoint, keys.services[name], ("services", name))
            load = self.checked(LoadKeys, given["load"][0] or {"concurrency": 1}, (*given["load"][1], "load"))
            if service is None or load is None:
                continue
            body = self.start / service.body
            try:
                content = body.read_bytes()
            except OSError as error:
                self.faults.add(("services", name, "body"), f"{body} cannot be read: {error.strerror}")
                continue
            found.append(
                Service(
                    name,
                    service.command,
                    self.start,
                    service.path,
                    content,
                    service.content_type,
                    service.ready,
                    service.environment,
                    tuple(self.counts(load.concurrency or 1, (*given["load"][1], "load"))),
                    experiment,
                )
            )
        return found
