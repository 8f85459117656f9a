"""The official ModelConfig protobuf, as shipped with tritonclient.

``tritonclient.grpc`` imports grpc and numpy; its module of generated messages needs neither, and is loaded alone so
that building a repository stays quick. Python's protobuf registry makes both the same classes.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from tritonkit.errors import ToolMissing


def _load() -> Any:
    package = importlib.util.find_spec("tritonclient")
    for folder in (package and package.submodule_search_locations) or ():
        file = Path(folder) / "grpc" / "model_config_pb2.py"
        if file.is_file():
            spec = importlib.util.spec_from_file_location("tritonkit_model_config_pb2", file)
            if spec is not None and spec.loader is not None:
                module = importlib.util.module_from_spec(spec)
                spec.loader.exec_module(module)
                return module
    raise ToolMissing("tritonclient is not installed", hint="pip install 'tritonclient[grpc,http]'")


_pb2 = _load()

DATA_TYPES = frozenset(_pb2.DataType.keys())
"""Names of Triton's data types, as in ``TYPE_FP32``."""


def empty() -> Any:
    """A new ModelConfig message with nothing set."""
    return _pb2.ModelConfig()


FIELDS = frozenset(_pb2.ModelConfig.DESCRIPTOR.fields_by_name)
"""Names of ModelConfig's own fields."""

EXCLUSIVE = tuple(frozenset(field.name for field in group.fields) for group in _pb2.ModelConfig.DESCRIPTOR.oneofs)
"""Groups of ModelConfig's own fields of which at most one can be set."""

PARAMETER = _pb2.ModelParameter.DESCRIPTOR.full_name
"""The message that stands for a plain string in ``parameters``."""


def data_type(name: str) -> int:
    """The number of ``TYPE_FP32``."""
    return int(_pb2.DataType.Value(name))


def data_type_name(value: int) -> str:
    """``TYPE_FP32`` for its number; the number itself, in words, where it has no name."""
    named = _pb2.DataType.DESCRIPTOR.values_by_number.get(value)
    return str(value) if named is None else str(named.name)


def enum_name(message: Any, field: str) -> str:
    """The name of the value that an enum field holds; its number, in words, where it has no name.

    A protobuf takes any number for an enum, as a newer Triton may have a name for it.
    """
    value = getattr(message, field)
    named = message.DESCRIPTOR.fields_by_name[field].enum_type.values_by_number.get(value)
    return str(value) if named is None else str(named.name)
