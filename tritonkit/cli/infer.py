"""``tritonkit infer``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from tritonkit.cli.console import print_json, print_table
from tritonkit.cli.target import CaCertificate, GrpcUrl, TokenFile, Url, addresses

if TYPE_CHECKING:
    from tritonkit.client.inference import Answer

_SHOWN_VALUES = 8
_SHOWN_TEXT = 60


def register(app: typer.Typer) -> None:
    """Add the command to the program."""
    app.command("infer", epilog="Example: tritonkit infer classify --input IMAGE=@samples/7.png --classes 3")(infer)


def infer(
    model: Annotated[str, typer.Argument(help="The model.", show_default=False)],
    inputs: Annotated[
        list[str] | None,
        typer.Option(
            "--input",
            "-i",
            metavar="NAME=VALUE",
            help="@file (BYTES: its bytes; else .npy, .npz, .json or raw), @'*.png' for a batch, or JSON.",
        ),
    ] = None,
    classes: Annotated[
        int, typer.Option("--classes", "-c", min=0, help="Show this many best classes instead of values.")
    ] = 0,
    url: Url = None,
    grpc_url: GrpcUrl = None,
    token_file: TokenFile = None,
    ca_certificate: CaCertificate = None,
    protocol: Annotated[Literal["http", "grpc"], typer.Option(help="How to ask.")] = "http",
    model_version: Annotated[
        str, typer.Option("--model-version", help="The version (default: the server's choice).", show_default=False)
    ] = "",
    timeout: Annotated[float, typer.Option(min=0.001, help="Seconds to wait for the answer.")] = 60.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the whole answer as JSON.")] = False,
) -> None:
    """Send one request to a running model and show its answer."""
    from tritonkit.client.signature import signature
    from tritonkit.client.tensors import collect, parse_inputs
    from tritonkit.repository.samples import samples
    from tritonkit.serve import state

    given = parse_inputs(inputs or [])
    server = addresses(url, grpc_url, token_file, ca_certificate)
    takes = signature(server.endpoint(timeout=timeout), model, model_version)
    # A server that is named with --url need not serve this project's spec.
    texts, folder = ({}, None) if given or url else samples(state.running(Path.cwd()).repository, os.environ)
    arrays = collect(takes, given, samples=texts.get(model), folder=folder)
    # Only now: the faults above are found without the weight of the client library.
    from tritonkit.client.inference import infer as send

    answers = send(server, takes, arrays, version=model_version, protocol=protocol, classes=classes, timeout=timeout)
    if as_json:
        print_json({"model": model, "outputs": [_document(answer) for answer in answers]})
        return
    for answer in answers:
        if answer.classes is not None:
            _print_classes(answer)
    tensors = [answer for answer in answers if answer.classes is None]
    if tensors:
        rows = [
            (answer.name, answer.datatype, "x".join(map(str, answer.shape)) or "scalar", _abbreviated(answer))
            for answer in tensors
        ]
        print_table(("output", "datatype", "shape", "values"), rows)


def _document(answer: Answer) -> dict[str, Any]:
    from dataclasses import asdict

    from tritonkit.client.inference import plain

    document: dict[str, Any] = {"name": answer.name, "datatype": answer.datatype}
    if answer.classes is not None:
        return {**document, "classes": [[asdict(entry) for entry in item] for item in answer.classes]}
    return {**document, "shape": list(answer.shape), "values": plain(answer.values)}


def _print_classes(answer: Answer) -> None:
    several = len(answer.classes or ()) > 1
    rows = [
        (*((item,) if several else ()), entry.index, entry.label, f"{entry.score:.4g}")
        for item, entries in enumerate(answer.classes or ())
        for entry in entries
    ]
    columns = (*(("item",) if several else ()), "index", "label", "score")
    print_table(columns, rows, title=answer.name, right=("item", "index", "score"))


def _abbreviated(answer: Answer) -> str:
    flat = answer.values.reshape(-1)
    shown = [_element(value) for value in flat[:_SHOWN_VALUES].tolist()]
    return ", ".join(shown) + (f", ... ({flat.size} in all)" if flat.size > _SHOWN_VALUES else "")


def _element(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if not isinstance(value, bytes):
        return str(value)
    try:
        text = value.decode()
    except UnicodeDecodeError:
        return f"<{len(value)} bytes>"
    return text if len(text) <= _SHOWN_TEXT else f"{text[: _SHOWN_TEXT - 3]}... ({len(value)} bytes)"
