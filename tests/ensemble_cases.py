"""Ensembles and the models that they run: what Triton makes of each.

Tensors are written ``NAME: TYPE[dims]``; a step ``model(MODEL_INPUT=tensor, ...) -> MODEL_OUTPUT=tensor, ...``.
"""

from __future__ import annotations

import re
from typing import NamedTuple


class Case(NamedTuple):
    """A repository; the model ``e`` is loaded.

    Attributes:
        title: what is special in it.
        code: the rule that it breaks; empty for a sound one.
        files: its files, below the repository.
    """

    title: str
    code: str
    files: dict[str, str]


def _tensors(role: str, said: str) -> str:
    found = re.findall(r"(\w+): (\w+)\[([-\d, ]*)\](\?)?", said)
    forms = (
        f'{{ name: "{name}" data_type: TYPE_{kind} dims: [{dims}]{" optional: true" if optional else ""} }}'
        for name, kind, dims, optional in found
    )
    return f"{role} [{', '.join(forms)}] " if found else ""


def _map(name: str, said: str) -> str:
    pairs = re.findall(r"(\w+)=(\w+)", said)
    return " ".join(f'{name} {{ key: "{key}" value: "{value}" }}' for key, value in pairs)


def _step(said: str) -> str:
    match = re.fullmatch(r"(\w*)(?:@(-?\d+))?\((.*)\) -> (.*)", said)
    assert match is not None, said
    name, version, read, written = match.groups()
    named = f'model_name: "{name}" ' if name else ""
    return f"{{ {named}model_version: {version or -1} {_map('input_map', read)} {_map('output_map', written)} }}"


def member(name: str, inputs: str, outputs: str, batch: int = 4, more: str = "") -> dict[str, str]:
    """A Python model."""
    config = f'backend: "python" max_batch_size: {batch} {_tensors("input", inputs)}{_tensors("output", outputs)}{more}'
    return {f"{name}/config.pbtxt": config, f"{name}/1/model.py": "model"}


def ensemble(inputs: str, outputs: str, *steps: str, batch: int = 4, more: str = "", name: str = "e") -> dict[str, str]:
    """An ensemble."""
    scheduling = f"ensemble_scheduling {{ step [{', '.join(map(_step, steps))}] }}"
    config = (
        f'platform: "ensemble" max_batch_size: {batch} {_tensors("input", inputs)}{_tensors("output", outputs)}'
        f"{scheduling} {more}"
    )
    return {f"{name}/config.pbtxt": config, f"{name}/1/": ""}


X, Y, Z = "x: FP32[2]", "y: FP32[2]", "z: FP32[2]"
A = member("a", X, Y)
B = member("b", Y, Z)
TWO = member("two", f"{X}, {Y}", Z)
DECOUPLED = "model_transaction_policy { decoupled: true }"
STREAM = member("stream", X, Y, more=DECOUPLED)
STREAM2 = member("stream2", X, Y, more=DECOUPLED)

A_TO_Y = "a(x=x) -> y=y"

CASES = (
    Case("one step", "", {**ensemble(X, Y, A_TO_Y), **A}),
    Case("two steps", "", {**ensemble(X, Z, A_TO_Y, "b(y=y) -> z=z"), **A, **B}),
    Case("steps in the other order", "", {**ensemble(X, Z, "b(y=y) -> z=z", A_TO_Y), **A, **B}),
    Case("a tensor in two steps", "", {**ensemble(X, Z, A_TO_Y, "two(x=x, y=y) -> z=z"), **A, **TWO}),
    Case("the same model twice", "", {**ensemble(X, Z, A_TO_Y, "a(x=y) -> y=z"), **A}),
    Case("an output that is also read", "", {**ensemble(X, f"{Y}, {Z}", A_TO_Y, "b(y=y) -> z=z"), **A, **B}),
    Case("an input as an output", "", {**ensemble(X, f"{X}, {Y}", A_TO_Y), **A}),
    Case(
        "an ensemble in an ensemble",
        "",
        {
            **ensemble(X, Z, "inner(x=x) -> y=y", "b(y=y) -> z=z"),
            **ensemble(X, Y, A_TO_Y, name="inner"),
            **A,
            **B,
        },
    ),
    Case("a smaller batch than the member's", "", {**ensemble(X, Y, A_TO_Y, batch=2), **A}),
    Case("a member without batches", "", {**ensemble("x: FP32[-1, 2]", "y: FP32[-1, 2]", "a(x=x) -> y=y", batch=0),
                                          **member("a", "x: FP32[-1, 2]", "y: FP32[-1, 2]", 0)}),
    Case("a batch over a member that takes it as a dimension", "",
         {**ensemble(X, Y, A_TO_Y), **member("a", "x: FP32[-1, 2]", "y: FP32[-1, 2]", 0)}),
    Case("a batch over a member without one", "PIP09",
         {**ensemble(X, Y, A_TO_Y), **member("a", "x: FP32[5, 3]", "y: FP32[-1, 2]", 0)}),
    Case("an optional input left out", "",
         {**ensemble(X, Y, A_TO_Y), **member("a", "x: FP32[2], w: FP32[1]?", Y)}),
    Case("sizes that vary", "", {**ensemble("x: FP32[-1]", Y, A_TO_Y), **A}),
    Case("one decoupled member", "", {**ensemble(X, Y, "stream(x=x) -> y=y"), **STREAM}),
    Case("two decoupled members after one another", "",
         {**ensemble(X, Z, "stream(x=x) -> y=y", "stream2(x=y) -> y=z"), **STREAM, **STREAM2}),
    Case("a cached ensemble", "", {**ensemble(X, Y, A_TO_Y, more="response_cache { enable: true }"), **A}),
    Case("a parameter of its own", "",
         {**ensemble(X, Y, A_TO_Y, more='parameters { key: "k" value { string_value: "v" } }'), **A}),
    Case("version 1 asked for", "", {**ensemble(X, Y, "a@1(x=x) -> y=y"), **A}),
    Case("a dynamic batcher instead of steps", "ENS02",
         {"e/config.pbtxt": 'platform: "ensemble" dynamic_batching { }', "e/1/": ""}),
    Case("a version that is not there, named twice", "",
         {**ensemble(X, Y, A_TO_Y, more="version_policy { specific { versions: [3, 3] } }"), **A}),
    Case("a version that is not there", "ID007",
         {**ensemble(X, Y, A_TO_Y, more="version_policy { specific { versions: [3] } }"), **A}),
    Case("no version folder", "ID007",
         {key: text for key, text in {**ensemble(X, Y, A_TO_Y), **A}.items() if key != "e/1/"}),
    Case("steps without the platform", "ENS01",
         {**{key: text.replace("platform", "backend").replace("ensemble\"", "python\"", 1)
             for key, text in ensemble(X, Y, A_TO_Y).items()}, "e/1/model.py": "model", **A}),
    Case("the platform without steps", "ENS02", {"e/config.pbtxt": 'platform: "ensemble"', "e/1/": ""}),
    Case("instances", "ENS03", {**ensemble(X, Y, A_TO_Y, more="instance_group [{ count: 1 }]"), **A}),
    Case("an optimization", "ENS04", {**ensemble(X, Y, A_TO_Y, more="optimization { priority: PRIORITY_MAX }"), **A}),
    Case("warmup", "ENS05", {**ensemble(X, Y, A_TO_Y, more='model_warmup [{ name: "w" }]'), **A}),
    Case("no steps", "ENS06", {"e/config.pbtxt": 'platform: "ensemble" ensemble_scheduling { }', "e/1/": ""}),
    Case("a step without a model", "ENS07", {**ensemble(X, Y, "(x=x) -> y=y"), **A}),
    Case("a step that reads nothing", "ENS08", {**ensemble(X, Y, "a() -> y=y"), **A}),
    Case("a step that writes nothing", "ENS09", {**ensemble(X, Y, "a(x=x) -> "), **A}),
    Case("a tensor written twice", "ENS10", {**ensemble(X, Y, A_TO_Y, A_TO_Y), **A}),
    Case("two outputs into one tensor", "ENS10",
         {**ensemble(X, Y, "a(x=x) -> y=y, z=y"), **member("a", X, f"{Y}, {Z}")}),
    Case("an input that nobody reads", "ENS11", {**ensemble(f"{X}, {Z}", Y, A_TO_Y), **A}),
    Case("an output that nobody writes", "ENS12", {**ensemble(X, f"{Y}, {Z}", A_TO_Y), **A}),
    Case("a step that waits for itself", "ENS13", {**ensemble(X, Y, "two(x=x, y=z) -> z=z", "a(x=z) -> y=y"),
                                                   **A, **TWO}),
    Case("two steps that wait for each other", "ENS13",
         {**ensemble(X, Z, "two(x=x, y=p) -> z=q", "a(x=q) -> y=p", "a(x=p) -> y=z"), **A, **TWO}),
    Case("a tensor from nowhere", "ENS13", {**ensemble(X, Z, "two(x=x, y=nowhere) -> z=z"), **TWO}),
    Case("a tensor that nobody reads", "ENS14",
         {**ensemble(X, Y, "a(x=x) -> y=y, z=spare"), **member("a", X, f"{Y}, {Z}")}),
    Case("a step for nothing", "ENS14", {**ensemble(X, Y, A_TO_Y, "b(y=y) -> z=spare"), **A, **B}),
    Case("a model that is not there", "PIP01", ensemble(X, Y, A_TO_Y)),
    Case("an ensemble that runs itself", "PIP02", ensemble(X, Y, "e(x=x) -> y=y")),
    Case("two ensembles that run each other", "PIP02",
         {**ensemble(X, Y, "f(x=x) -> y=y"), **ensemble(X, Y, "e(x=x) -> y=y", name="f")}),
    Case("a version that is not served", "PIP03", {**ensemble(X, Y, "a@2(x=x) -> y=y"), **A}),
    Case("a greater batch than the member's", "PIP04", {**ensemble(X, Y, A_TO_Y, batch=8), **A}),
    Case("an input that the member has not", "PIP05", {**ensemble(X, Y, "a(w=x) -> y=y"), **A}),
    Case("an input of the member left out", "PIP06",
         {**ensemble(X, Z, "two(x=x) -> z=z"), **TWO}),
    Case("an output that the member has not", "PIP07", {**ensemble(X, Y, "a(x=x) -> w=y"), **A}),
    Case("another type at the input", "PIP08", {**ensemble("x: INT32[2]", Y, A_TO_Y), **A}),
    Case("another type at the output", "PIP08", {**ensemble(X, "y: FP16[2]", A_TO_Y), **A}),
    Case("another type between two members", "PIP08",
         {**ensemble(X, Z, "a(x=x) -> y=y", "b(y=y) -> z=z"), **A, **member("b", "y: FP64[2]", Z)}),
    Case("another shape at the input", "PIP09", {**ensemble("x: FP32[3]", Y, A_TO_Y), **A}),
    Case("another rank at the output", "PIP09", {**ensemble(X, "y: FP32[2, 1]", A_TO_Y), **A}),
    Case("another shape between two members", "PIP09",
         {**ensemble(X, Z, "a(x=x) -> y=y", "b(y=y) -> z=z"), **A, **member("b", "y: FP32[5]", Z)}),
    Case("two decoupled members that meet", "PIP10",
         {**ensemble(X, Z, "stream(x=x) -> y=p", "stream2(x=x) -> y=q", "two(x=p, y=q) -> z=z"),
          **STREAM, **STREAM2, **TWO}),
    Case("a decoupled member and its input meet", "PIP10",
         {**ensemble(X, Z, "stream(x=x) -> y=p", "two(x=x, y=p) -> z=z"), **STREAM, **TWO}),
    Case("a member that Triton refuses", "PIP11",
         {**ensemble(X, Y, A_TO_Y), **member("a", X, Y, more="dynamic_batching { preferred_batch_size: [9] }")}),
    Case("a member that fails to load", "PIP11",
         {**ensemble(X, Y, A_TO_Y), **member("a", X, Y, more="instance_group [{ kind: KIND_GPU }]")}),
    Case("no inputs at all", "ENS13", {**ensemble("", Y, A_TO_Y), **A}),
    Case("no outputs at all", "ENS14", {**ensemble(X, "", A_TO_Y), **A}),
)  # fmt: skip
