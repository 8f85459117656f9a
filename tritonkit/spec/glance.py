"""One word of a spec, told at a glance: reading a spec of many models takes longer than finding its build unchanged."""

from __future__ import annotations

from pathlib import Path as FilePath
from typing import Any

import yaml
from yaml.resolver import Resolver

from tritonkit.errors import SpecError
from tritonkit.spec.document import text_of
from tritonkit.spec.yaml_words import TAG, Loader


def peek(path: FilePath, key: str, default: str) -> str | None:
    """The string at a key of the top mapping, found without reading the values of the others.

    Returns:
        The string; ``default`` where the mapping has no such key. None where only reading the file can tell: the value
        depends on the environment, on an alias or on a merge, or is no string; or the file cannot be used.
    """
    depth, is_key, found = 0, False, False
    try:
        for event in yaml.parse(text_of(path), Loader=Loader):
            if depth == 1 and found:
                return _plain_string(event)
            if isinstance(event, yaml.CollectionStartEvent):
                if is_key or (depth == 0 and not isinstance(event, yaml.MappingStartEvent)):
                    return None
                depth += 1
                is_key = depth == 1
            elif isinstance(event, yaml.CollectionEndEvent):
                depth -= 1
                is_key = depth == 1
            elif depth == 1 and isinstance(event, yaml.NodeEvent):
                word = event.value if isinstance(event, yaml.ScalarEvent) else "<<"
                if is_key and word == "<<":
                    return None
                found = is_key and word == key
                is_key = not is_key
    except (yaml.YAMLError, SpecError):
        return None
    return default


def _plain_string(event: yaml.Event) -> str | None:
    if not isinstance(event, yaml.ScalarEvent) or event.tag is not None or "$" in event.value:
        return None
    resolver: Any = Resolver()
    return str(event.value) if resolver.resolve(yaml.ScalarNode, event.value, event.implicit) == f"{TAG}str" else None
