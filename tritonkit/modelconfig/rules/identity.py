"""Rules on what a model is: its name, backend, platform, versions and artifact."""

from __future__ import annotations

from collections.abc import Iterator

from tritonkit.modelconfig.findings import Severity
from tritonkit.modelconfig.platforms import ENSEMBLE, PAIRED, PLATFORMS
from tritonkit.modelconfig.rules.rule import Found, Rules, Subject, at

rules = Rules()

# The backends that look for one file; of the Python backend, only the log says so: the load hangs.
_FILED = frozenset({"python", "onnxruntime", "tensorrt", "pytorch", "openvino"})


@rules.rule(
    "ID001",
    "the configuration is named '{name}', but the model's folder is '{folder}'",
    triton="unexpected directory name '{folder}' for model '{name}', directory name must equal model name",
    instead="leave 'name' out: the folder names the model",
    early=True,
)
def name_is_the_folder(model: Subject) -> Iterator[Found]:
    if model.config.name and model.config.name != model.name:
        yield at("name", name=model.config.name)


@rules.rule(
    "ID002",
    "nothing tells the model's backend",
    triton="Invalid model name: Could not determine backend for model '{folder}' with no backend in model "
    "configuration",
    instead="backend: python (or onnxruntime, tensorrt, pytorch, ...)",
    early=True,
)
def backend_is_known(model: Subject) -> Iterator[Found]:
    stated = model.config.backend or model.config.platform or model.config.default_model_filename
    if not stated and not model.normal.backend and model.files is not None:
        yield at()


@rules.rule(
    "ID003",
    "no backend goes with the platform '{platform}'",
    triton="unexpected platform type '{platform}' for {model}",
    instead="backend: NAME, and no 'platform'",
    early=True,
)
def platform_names_a_backend(model: Subject) -> Iterator[Found]:
    normal = model.normal
    stated = normal.platform or model.config.default_model_filename
    if not normal.backend and stated and normal.platform != ENSEMBLE:
        yield at("platform" if normal.platform else "default_model_filename", platform=normal.platform)


@rules.rule(
    "ID004",
    "an ensemble has no backend, and this one names '{backend}'",
    triton="Ensemble model '{model}' must have platform type 'ensemble' and empty backend type",
    instead="platform: ensemble, and no 'backend'",
    early=True,
)
def ensembles_have_no_backend(model: Subject) -> Iterator[Found]:
    if model.normal.platform == ENSEMBLE and model.normal.backend:
        yield at("backend", backend=model.normal.backend)


@rules.rule(
    "ID005",
    "the backend '{backend}' does not go with the platform '{platform}'",
    triton="unexpected 'platform' and 'backend' pair, got:{platform}, {backend}",
    instead="leave 'platform' out: the backend says it all",
    early=True,
)
def platform_fits_the_backend(model: Subject) -> Iterator[Found]:
    backend, platform, _ = model.normal
    if backend in PAIRED and platform != ENSEMBLE and PLATFORMS.get(platform) != backend:
        yield at("platform", backend=backend, platform=platform)


@rules.rule(
    "ID006",
    "max_batch_size is {size}, and cannot be negative",
    triton="'max_batch_size' must be non-negative value for {model}",
    instead="max_batch_size: 0 for a model without batching",
    early=True,
)
def max_batch_size_is_no_less_than_zero(model: Subject) -> Iterator[Found]:
    if model.config.max_batch_size < 0:
        yield at("max_batch_size", size=model.config.max_batch_size)


@rules.rule(
    "ID007",
    "the model's folder has no version that its version policy serves (versions: {versions})",
    triton="at least one version must be available under the version policy of model '{model}'",
    instead="a folder named 1 for the first version; an ensemble's may be empty",
)
def a_version_is_served(model: Subject) -> Iterator[Found]:
    if model.versions is not None and not served_versions(model):
        shown = ", ".join(map(str, model.versions)) or "none"
        yield at("version_policy" if model.config.HasField("version_policy") else "name", versions=shown)


@rules.rule(
    "ID008",
    "version {version} is asked for, and its folder is not there",
    triton="version {version} is specified for model '{model}', but the version directory is not present",
    instead="only versions that the folder has",
    severity=Severity.WARNING,
)
def specific_versions_are_there(model: Subject) -> Iterator[Found]:
    for index, version in enumerate(model.config.version_policy.specific.versions):
        if model.versions is not None and version not in model.versions:
            yield at("version_policy", "specific", "versions", index, version=version)


@rules.rule(
    "ID016",
    "version {version} is named twice, and Triton then takes its folder for present",
    instead="each version once",
    severity=Severity.WARNING,
)
def specific_versions_are_named_once(model: Subject) -> Iterator[Found]:
    named = list(model.config.version_policy.specific.versions)
    for index, version in enumerate(named):
        if version in named[:index]:
            yield at("version_policy", "specific", "versions", index, version=version)


@rules.rule(
    "ID009",
    "'{field}' is not known before Triton {release}, and older servers refuse the whole file",
    triton='Message type "{message}" has no field named "{field}".',
    instead="leave '{field}' out, or serve with Triton {release} or newer",
    severity=Severity.WARNING,
)
def fields_that_any_server_knows(model: Subject) -> Iterator[Found]:
    if model.machine.release is None:
        yield from _newer_fields(model, (0, 0))


@rules.rule(
    "ID010",
    "'{field}' is not known before Triton {release}, and this server is older",
    triton='Message type "{message}" has no field named "{field}".',
    instead="leave '{field}' out, or serve with Triton {release} or newer",
    early=True,
)
def fields_that_the_server_knows(model: Subject) -> Iterator[Found]:
    if model.machine.release is not None:
        yield from _newer_fields(model, model.machine.release)


def _newer_fields(model: Subject, release: tuple[int, int]) -> Iterator[Found]:
    words = {"message": "inference.ModelConfig", "field": "model_metrics", "release": "24.11"}
    if release < (24, 11) and model.config.HasField("model_metrics"):
        yield at("model_metrics", **words)
    words = {"message": "inference.ModelEnsembling", "field": "max_inflight_requests", "release": "25.11"}
    if release < (25, 11) and bool(model.config.ensemble_scheduling.max_inflight_requests):
        yield at("ensemble_scheduling", "max_inflight_requests", **words)


@rules.rule(
    "ID011",
    "the server has no backend '{backend}'; it has: {backends}",
    triton="unable to find backend library for backend '{backend}'",
    instead="the name of a backend that is installed where the model is served",
)
def backends_are_installed(model: Subject) -> Iterator[Found]:
    installed = model.machine.backends
    if installed is not None and model.normal.backend and model.normal.backend not in installed:
        shown = ", ".join(sorted(installed))
        yield at("backend" if model.config.backend else "platform", backend=model.normal.backend, backends=shown)


@rules.rule(
    "ID012",
    "the server has no repository agent '{agent}'",
    triton="unable to find 'libtritonrepoagent_{agent}.so' for repo agent '{agent}'",
    instead="leave 'model_repository_agents' out, or serve where the agent is installed",
    early=True,
)
def agents_are_installed(model: Subject) -> Iterator[Found]:
    installed = model.machine.agents
    for index, agent in enumerate(model.config.model_repository_agents.agents):
        if not agent.name or (installed is not None and agent.name not in installed):
            yield at("model_repository_agents", "agents", index, agent=agent.name)


@rules.rule(
    "ID015",
    "'model_repository_agents' names no agent, and the server crashes of that",
    triton="Signal (11) received.",
    instead="leave 'model_repository_agents' out",
)
def agents_are_named(model: Subject) -> Iterator[Found]:
    if model.config.HasField("model_repository_agents") and not model.config.model_repository_agents.agents:
        yield at("model_repository_agents")


@rules.rule(
    "ID014",
    "the server has no library '{runtime}' to run the backend '{backend}'",
    triton="unable to find backend library '{runtime}' for model '{model}'",
    instead="leave 'runtime' out: the backend knows its own",
)
def runtimes_are_installed(model: Subject) -> Iterator[Found]:
    runtime, backend = model.config.runtime, model.normal.backend
    installed = model.machine.backends
    if not runtime or installed is None or backend not in installed:
        return
    own = {f"libtriton_{backend}.so", "model.py"} if backend != "python" else {"libtriton_python.so"}
    folders = ("", *(f"{version}/" for version in served_versions(model)))
    if runtime not in own and not any(f"{folder}{runtime}" in (model.files or ()) for folder in folders):
        yield at("runtime", runtime=runtime, backend=backend)


@rules.rule(
    "ID013",
    "version {version} has no file '{file}', which the {backend} backend loads",
    triton="{words}",
    instead="the file under that name, or default_model_filename: ITS_NAME",
)
def artifacts_are_there(model: Subject) -> Iterator[Found]:
    normal = model.normal
    if model.files is None or model.is_ensemble or normal.backend not in _FILED:
        return
    if model.machine.backends is not None and normal.backend not in model.machine.backends:
        return
    for version in served_versions(model):
        folder = f"{version}/{normal.filename}"
        if folder not in model.files and not any(path.startswith(f"{folder}/") for path in model.files):
            words = "unable to find"
            if normal.backend == "python":
                words = "Python model file not found in"
            elif model.machine.python_based:
                words = "no model file"
            yield at(version=version, file=normal.filename, backend=normal.backend, words=words)


def served_versions(model: Subject) -> tuple[int, ...]:
    """The versions that the policy serves of those that are there."""
    there = model.versions or ()
    policy = model.config.version_policy
    choice = policy.WhichOneof("policy_choice")
    if choice == "specific":
        named = list(policy.specific.versions)
        # A version that is named twice Triton takes for present, whatever folders there are.
        return tuple(sorted({version for version in named if version in there or named.count(version) > 1}))
    if choice == "all":
        return there
    # Without a policy, Triton serves the latest version.
    wanted = policy.latest.num_versions if choice == "latest" else 1
    return there[max(0, len(there) - wanted) :] if wanted else ()
