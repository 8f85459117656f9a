"""``tritonkit build-repo``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tritonkit.cli.console import messages, output, print_json, print_table, progress

if TYPE_CHECKING:
    from tritonkit.errors import ArtifactsMissing
    from tritonkit.repository.changes import Changes

_SHOWN_ROWS = 30

_SERVED = "not tritonkit's, served"
_DONE = {"create": "created", "update": "updated", "remove": "removed", "edited": "replaced"}

SpecFiles = Annotated[
    list[Path], typer.Argument(help="The spec, then overlays that replace what it says.", show_default=False)
]
Assignments = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="PATH=VALUE", help="Replace one value: models.digits.max_batch_size=64."),
]


def register(app: typer.Typer) -> None:
    """Add the command to the program."""
    app.command("build-repo", epilog="Example: tritonkit build-repo spec.yaml laptop.yaml --diff")(build_repo)


def build_repo(
    files: SpecFiles,
    assignments: Assignments = None,
    target: Annotated[
        Path | None, typer.Option("--output", "-o", help="Build into this folder, not into the spec's own.")
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Only tell whether the build is current and alone; exit 1 if not.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would change; write nothing.")] = False,
    no_check: Annotated[
        bool, typer.Option("--no-check", help="Build also what Triton would refuse.", show_default=False)
    ] = False,
    templates: Annotated[
        Path | None, typer.Option("--templates", help="A folder of Jinja2 templates that go before tritonkit's own.")
    ] = None,
    diff: Annotated[bool, typer.Option("--diff", help="As --dry-run, with the lines that would change.")] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Also replace files of the build that were edited by hand.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Build a Triton model repository from a spec: artifacts in place, every config.pbtxt rendered and checked."""
    import os

    from tritonkit.cli.export import make
    from tritonkit.errors import ArtifactsMissing
    from tritonkit.repository import build, strangers

    acting = not (check or dry_run or diff)
    inputs = (files, assignments or [], os.environ, target)
    known = build.current_repository(*inputs, check=not no_check, templates=templates) if acting else None
    if known is not None:
        _print_result(known[0], {"unchanged": known[1]}, {}, as_json=as_json)
        return
    try:
        changes = build.compare(*inputs, check=not no_check, templates=templates, make=make if acting else None)
    except ArtifactsMissing as missing:
        _print_missing(missing, as_json=as_json)
        raise typer.Exit(1 if check else 0) from None
    if acting:
        write(changes, force=force)
    elif diff and not as_json:
        _print_diff(changes)
    kinds = ("create", "update", "remove", "foreign", "edited")
    changed = {_DONE.get(kind, kind) if acting else kind: getattr(changes, kind) for kind in kinds}
    served: tuple[str, ...] = ()
    if not acting:
        found = strangers.find(changes.repository, [*changes.planned, *changes.recorded.paths])
        served = found.served
        changed |= {_SERVED: found.served, "not tritonkit's": found.other}
    counts = {**{kind: len(paths) for kind, paths in changed.items()}, "unchanged": len(changes.unchanged)}
    _print_result(changes.repository, counts, changed, as_json=as_json)
    if served:
        messages().print(f"{_SERVED}: Triton would serve this with the rest; add it to the spec, or move it away")
    if check and (changes.any or served):
        raise typer.Exit(1)


def write(changes: Changes, *, force: bool = False) -> None:
    """Carry out planned changes under a progress bar."""
    from tritonkit.repository.changes import apply

    with progress() as bars:
        task = bars.add_task("writing", total=len(changes.create) + len(changes.update))
        apply(changes, force=force, report=lambda: bars.advance(task))


def _print_result(
    repository: Path, counts: dict[str, int], files: dict[str, tuple[str, ...]], *, as_json: bool
) -> None:
    if as_json:
        print_json({"repository": str(repository), "counts": counts, "files": files})
        return
    rows = sorted((path, kind) for kind, paths in files.items() for path in paths)
    if rows:
        print_table(["file", "change"], rows[:_SHOWN_ROWS])
        if len(rows) > _SHOWN_ROWS:
            output().print(f"... and {len(rows) - _SHOWN_ROWS} more (--json lists all)")
    summary = ", ".join(f"{count} {kind}" for kind, count in counts.items() if count)
    messages().print(f"{repository}: {summary}", markup=False)


def _print_missing(missing: ArtifactsMissing, *, as_json: bool) -> None:
    """What has to be made first; what the repository would then hold depends on it."""
    if as_json:
        print_json({"to_export": missing.artifacts})
        return
    print_table(["model", "to be exported"], list(missing.artifacts.items()))
    if missing.hint:
        messages().print(f"export first, then compare: {missing.hint}", markup=False)


def _print_diff(changes: Changes) -> None:
    import difflib

    for path in (*changes.create, *changes.update, *changes.edited):
        if path not in changes.planned:
            continue
        file, _ = changes.planned[path]
        new = file.content if file.content is not None else (file.source and file.source.read_bytes()) or b""
        target = changes.repository / path
        old = target.read_bytes() if target.is_file() else b""
        if b"\0" in old + new:
            output().print(f"Binary file {path}: {len(old):,} -> {len(new):,} bytes", markup=False)
            continue
        lines = difflib.unified_diff(
            old.decode(errors="replace").splitlines(),
            new.decode(errors="replace").splitlines(),
            f"{path} (now)",
            f"{path} (planned)",
            lineterm="",
        )
        for line in lines:
            style = {"+": "green", "-": "red", "@": "cyan"}.get(line[:1])
            output().print(line, markup=False, style=style)
