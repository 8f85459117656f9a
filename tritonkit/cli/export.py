"""``tritonkit export``, and making what a build needs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tritonkit.cli.build import Assignments
from tritonkit.cli.console import messages, print_json, print_table, progress

if TYPE_CHECKING:
    from tritonkit.artifacts.making import Made
    from tritonkit.repository.origins import Origins


def register(app: typer.Typer) -> None:
    """Add the command to the program."""
    app.command("export", epilog="Example: tritonkit export spec.yaml resnet50 --dry-run")(export)


def export(
    spec: Annotated[Path, typer.Argument(help="The spec.", show_default=False)],
    models: Annotated[list[str] | None, typer.Argument(help="Only these models.", show_default=False)] = None,
    overlays: Annotated[
        list[Path] | None, typer.Option("--overlay", "-f", help="A file that replaces what the spec says.")
    ] = None,
    assignments: Assignments = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be made; make nothing.")] = False,
    refresh: Annotated[bool, typer.Option("--refresh", help="Fetch URLs anew, which may have changed.")] = False,
    bisect: Annotated[
        bool, typer.Option("--bisect", help="Name the first ONNX node whose output departs from the source's.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Make the files that Triton loads, torch to ONNX and ONNX to TensorRT plans, each proved against its source."""
    import os

    from tritonkit.repository import resolution
    from tritonkit.repository.origins import plan
    from tritonkit.spec.loading import load

    loaded = load([spec, *(overlays or [])], assignments or [], os.environ)
    origins = plan(loaded).only(models or [])
    loaded.faults.raise_if_any()
    if bisect:
        _bisect(origins, as_json=as_json)
        return
    if refresh and not dry_run:
        resolution.forget(origins)
    found = resolution.find(origins) if dry_run else make(origins)
    rows = [row for name, made in found.items() for row in _rows(name, origins, made, dry_run=dry_run)]
    if as_json:
        print_json(rows)
    elif rows:
        columns = ("model", "made", "from", "size", "time", "exactness")
        print_table(columns, [[row[column] for column in columns] for row in rows], right=("size", "time"))
    if not rows:
        messages().print("nothing to make: every source is what Triton loads")


def make(origins: Origins) -> Mapping[str, Made | Path]:
    """Fetch and make everything, under a progress bar."""
    from tritonkit.repository import resolution

    with progress() as bars:
        total = len(origins.work)
        task = bars.add_task("exporting", total=total * 100)
        made: dict[str, Made | Path] = {}
        for index, name in enumerate(origins.work):

            def report(stage: str, share: float, name: str = name, index: int = index) -> None:
                bars.update(task, description=f"{name}: {stage}", completed=index * 100 + int(share * 100))

            made[name] = resolution.make(origins, name, report)
        bars.update(task, completed=total * 100)
    return made


def _rows(name: str, origins: Origins, made: Made | Path | None, *, dry_run: bool) -> list[dict[str, Any]]:
    """One row for each artifact on the way to what the model needs."""
    from tritonkit.repository import resolution

    if made is None:
        source = resolution.described(origins.work[name])
        return [_row(name, "would be made" if dry_run else "", source)]
    if isinstance(made, Path):
        return [_row(name, made.name, resolution.described(origins.work[name]), size=made.stat().st_size)]
    rows = []
    for step in made.chain:
        for filename, record in sorted(step.entry.records.items()):
            source = " ".join(f"{key} {value}" for key, value in record.source.items() if key != "sha256")
            seconds = None if dry_run else step.seconds
            rows.append(
                {
                    **_row(name, filename, source, size=_size(step.entry.folder / filename)),
                    "time": "cached" if seconds is None else f"{seconds:.1f} s",
                    "exactness": _exactness(record.parity, record.precision),
                    "path": str(step.entry.folder / filename),
                    "parity": record.parity,
                }
            )
    return rows


def _size(artifact: Path) -> int:
    """Its bytes, with those of the weights that lie beside it."""
    beside = artifact.with_name(f"{artifact.name}.data")
    return artifact.stat().st_size + (beside.stat().st_size if beside.is_file() else 0)


def _row(model: str, made: str, source: str, *, size: int | None = None) -> dict[str, Any]:
    shown = "" if size is None else _bytes(size)
    return {"model": model, "made": made, "from": source, "size": shown, "bytes": size, "time": "", "exactness": ""}


def _exactness(parity: Mapping[str, Any], precision: str) -> str:
    if not parity["proved"]:
        return f"{precision}, NOT PROVED: {parity['reason']}"
    relative = max(row["relative"] for row in parity["rows"])
    cosine = min(row["cosine"] for row in parity["rows"])
    return f"{precision}, relative error {relative:.1e}, cosine {cosine:.6f}"


def _bytes(size: int) -> str:
    value = float(size)
    for unit in ("B", "kB", "MB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} GB"


def _bisect(origins: Origins, *, as_json: bool) -> None:
    """Say for every model that is exported to ONNX where the file departs from the module."""
    from tritonkit.artifacts import making
    from tritonkit.repository.origins import torch_recipe

    recipes = {name: recipe for name, origin in origins.work.items() if (recipe := torch_recipe(origin))}
    found = {}
    with progress() as bars:
        task = bars.add_task("comparing", total=len(recipes))
        for name, recipe in recipes.items():
            found[name] = making.bisect(recipe, lambda stage, _: bars.update(task, description=stage))
            bars.advance(task)
    if as_json:
        print_json(found)
        return
    columns = ("model", "first node to depart", "operator", "in", "question", "relative error")
    rows = [
        [name, at["node"], at["operator"], at["scope"], at["question"], f"{at['relative']:.1e}"]
        if at
        else [name, "none", "", "", "", ""]
        for name, at in found.items()
    ]
    print_table(columns, rows, right=("relative error",))
