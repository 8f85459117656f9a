"""Rules on the parameters that backends read."""

from __future__ import annotations

from collections.abc import Iterator

from tritonkit.modelconfig.rules.rule import Found, Rules, Subject, at

rules = Rules()

_CPU_ONLY = "FORCE_CPU_ONLY_INPUT_TENSORS"


@rules.rule(
    "PAR01",
    f"the parameter {_CPU_ONLY} is '{{value}}'",
    triton=f"Incorrect value for {_CPU_ONLY}: {{value}}'",
    instead='"yes" or "no"',
)
def cpu_only_is_yes_or_no(model: Subject) -> Iterator[Found]:
    if model.normal.backend == "python" and _CPU_ONLY in model.config.parameters:
        value = model.config.parameters[_CPU_ONLY].string_value
        if value not in ("yes", "no"):
            yield at("parameters", _CPU_ONLY, value=value)
