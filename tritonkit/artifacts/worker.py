"""Making one artifact, in a process of its own.

A converter or the user's module may print, exit or crash as it likes: the process that asked loses nothing, and one
that is killed takes this one along.
"""

from __future__ import annotations

import ast
import ctypes
import errno
import json
import os
import signal
import site
import sys
import sysconfig
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any

from tritonkit.artifacts import provenance, recipes
from tritonkit.artifacts.onnx_file import read_signature
from tritonkit.artifacts.provenance import Provenance
from tritonkit.artifacts.recipes import PlanRecipe, Recipe, TorchRecipe
from tritonkit.artifacts.signature import UnreadableArtifact
from tritonkit.errors import ExportFailed, ToolMissing, TritonkitError
from tritonkit.tools import digests, packages
from tritonkit.tools.commands import cache_directory

_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class Job:
    """What to make.

    Attributes:
        recipe: how.
        starting: the local files of what it starts from, by the recipe's field.
        folder: an empty folder for the artifacts and their records.
        parent: the process that asked.
        events: file descriptor for what is to be told: one JSON object in a line.
        bisect: to make nothing, and to tell instead where the artifact would depart from its source.
    """

    recipe: TorchRecipe | PlanRecipe
    starting: Mapping[str, Path]
    folder: Path
    parent: int
    events: int
    bisect: bool = False


def main() -> None:
    """Do the job that standard input describes."""
    from pydantic import TypeAdapter

    job = TypeAdapter(Job).validate_json(sys.stdin.buffer.read())
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != job.parent:
        sys.exit(1)
    # Ctrl-C reaches the whole group; who asked ends this process itself.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with os.fdopen(job.events, "w", encoding="utf-8", buffering=1) as events:

        def tell(**event: Any) -> None:
            events.write(json.dumps(event) + "\n")

        try:
            _do(job, tell)
        except TritonkitError as error:
            tell(error=str(error.args[0]), hint=error.hint, kind=type(error).__name__)
            sys.exit(error.exit_code)
        except OSError as error:
            # A write to a full disk does not say where it was.
            where = error.filename or (job.folder if error.errno == errno.ENOSPC else "")
            words = f"{where}: {error.strerror or error}" if where else f"{error.strerror or error}"
            tell(error=words, hint=None, kind="ExportFailed")
            with suppress(OSError):
                # The log may lie on that disk too.
                traceback.print_exc()
            sys.exit(1)


def _do(job: Job, tell: Callable[..., None]) -> None:
    def report(stage: str, done: float) -> None:
        tell(stage=stage, done=done)

    if not job.bisect:
        make(job.recipe, job.starting, job.folder, report)
    elif isinstance(job.recipe, TorchRecipe):
        torch_export = _torch_export()
        found = torch_export.departure(job.recipe, job.starting.get("weights"), job.folder, report)
        tell(departure=asdict(found) if found else None)


def make(recipe: Recipe, starting: Mapping[str, Path], folder: Path, report: Any) -> None:
    """Make the artifacts of a recipe in a folder, each with its record.

    Raises:
        ExportFailed: it cannot be made, or computes something else.
        ToolMissing: a package is not installed.
        OSError: the disk refuses.
    """
    if isinstance(recipe, TorchRecipe):
        _from_torch(recipe, starting, folder, report)
    else:
        _to_plans(recipe, starting, folder, report)


def _from_torch(recipe: TorchRecipe, starting: Mapping[str, Path], folder: Path, report: Any) -> None:
    with _opened_files() as opened:
        try:
            from tritonkit.artifacts import torch_export
        except ModuleNotFoundError as error:
            hint = "pip install 'tritonkit[export]'"
            raise ToolMissing(
                f"{error.name} is not installed; modules of torch are exported by it", hint=hint
            ) from None
        made = torch_export.export(recipe, starting.get("weights"), folder, report)
        read = _own_files(opened)
    module = recipes.factory_file(recipe)
    named = [file for file in recipes.files_of(recipe) if file is not module]
    provenance.write(
        folder,
        Provenance(
            artifact=made.file.name,
            sha256=digests.of_file(made.file),
            source={"torch": recipe.factory, "sha256": digests.of_file(module) if module else None},
            options=_options(recipe),
            tools=_versions(["torch", *_onnx_tools(recipe), *_imported_by(read)]),
            dependencies=_relative([*read, *named], recipe.directory),
            inputs=made.inputs,
            outputs=made.outputs,
            precision=made.precision,
            parity=provenance.of_parity(made.parity),
        ),
    )


def _torch_export() -> ModuleType:
    try:
        from tritonkit.artifacts import torch_export
    except ModuleNotFoundError as error:
        hint = "pip install 'tritonkit[export]'"
        raise ToolMissing(f"{error.name} is not installed; it takes part in exporting", hint=hint) from None
    return torch_export


def _onnx_tools(recipe: TorchRecipe) -> list[str]:
    return ["onnx", "onnxscript", "onnxruntime", "onnxruntime-gpu"] if recipe.filename == "model.onnx" else []


def _to_plans(recipe: PlanRecipe, starting: Mapping[str, Path], folder: Path, report: Any) -> None:
    from tritonkit.artifacts import tensorrt_build, tensorrt_module, tensorrt_proof

    onnx = starting["onnx"]
    try:
        beside = read_signature(onnx).beside
    except UnreadableArtifact as error:
        raise ExportFailed(f"{onnx} {error}") from None
    source = provenance.read(onnx)
    named: list[Path] = []
    if not isinstance(recipe.onnx, TorchRecipe):
        named = [*recipes.files_of(recipe), *(onnx.parent / name for name in beside)]
    tensorrt = tensorrt_module.find()
    for capability, filename in recipes.plan_filenames(recipe).items():
        built = tensorrt_build.build(recipe, onnx, capability, folder / filename, report)
        parity, reason = tensorrt_proof.prove(recipe, onnx, built, capability, report)
        provenance.write(
            folder,
            Provenance(
                artifact=filename,
                sha256=digests.of_file(built.file),
                source={"onnx": onnx.name, "sha256": digests.of_file(onnx)},
                options=_options(recipe),
                tools={tensorrt.distribution: tensorrt.version} if tensorrt else {},
                dependencies=_relative(named, recipe.directory),
                inputs=built.inputs,
                outputs=built.outputs,
                precision=source.precision if source else recipe.precision or "FP32",
                compute_capability=capability,
                profiles=tuple(
                    {name: asdict(shapes) for name, shapes in profile.items()} for profile in built.profiles
                ),
                parity=provenance.of_parity(parity, reason),
            ),
        )


def _options(recipe: Recipe) -> dict[str, Any]:
    values: dict[str, Any] = recipes.plain(recipe)
    values.pop("directory")
    return values


def _versions(names: list[str]) -> dict[str, str]:
    return {name: version for name, version in packages.installed(dict.fromkeys(names)).items() if version}


@contextmanager
def _opened_files() -> Iterator[set[str]]:
    """The files that are opened for reading meanwhile, by Python itself or by what it runs."""
    opened: set[str] = set()
    listening = True

    def listen(event: str, arguments: tuple[Any, ...]) -> None:
        if listening and event == "open":
            path, mode, _ = arguments
            if isinstance(path, str | bytes | os.PathLike) and (mode is None or "r" in str(mode)):
                opened.add(os.path.abspath(os.fsdecode(path)))

    # There is no way to take an audit hook away again.
    sys.addaudithook(listen)
    try:
        yield opened
    finally:
        listening = False


def _own_files(opened: set[str]) -> list[Path]:
    """The user's own files among those that were opened or imported: no libraries, nothing that is gone by now."""
    modules = [getattr(module, "__file__", None) for module in list(sys.modules.values())]
    found = {*opened, *(os.path.abspath(path) for path in modules if isinstance(path, str))}
    roots = {*sysconfig.get_paths().values(), sys.prefix, sys.base_prefix, site.getusersitepackages()}
    roots |= {str(Path(__file__).parents[1]), str(cache_directory()), "/proc", "/sys", "/dev", "/etc", "/usr"}
    skipped = tuple(os.path.join(root, "") for root in roots)
    own = [Path(path) for path in sorted(found) if not path.startswith(skipped) and not path.endswith(".pyc")]
    return [path for path in own if path.is_file()]


def _imported_by(files: list[Path]) -> list[str]:
    """The distributions that the user's own code imports."""
    names: set[str] = set()
    for file in files:
        if file.suffix == ".py":
            for node in ast.walk(ast.parse(file.read_bytes())):
                if isinstance(node, ast.Import):
                    names.update(alias.name.partition(".")[0] for alias in node.names)
                elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
                    names.add(node.module.partition(".")[0])
    known = metadata.packages_distributions()
    return sorted({distribution for name in names for distribution in known.get(name, ())[:1]})


def _relative(files: list[Path], directory: Path) -> dict[str, str]:
    return {
        Path(os.path.relpath(file.resolve(), directory.resolve())).as_posix(): digests.of_file(file) for file in files
    }


if __name__ == "__main__":
    main()
