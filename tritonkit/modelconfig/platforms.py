"""Backend, platform and file name of a model, completed from each other and from its files as Triton does it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

ENSEMBLE = "ensemble"
TENSORRT_PLAN = "tensorrt_plan"


class Known(NamedTuple):
    """A backend that Triton completes by itself."""

    backend: str
    platforms: tuple[str, ...]
    filename: str


_TENSORFLOW = (("tensorflow_savedmodel", "model.savedmodel"), ("tensorflow_graphdef", "model.graphdef"))

# In the order in which Triton tries them.
_KNOWN = (
    Known("tensorrt", (TENSORRT_PLAN,), "model.plan"),
    Known("onnxruntime", ("onnxruntime_onnx",), "model.onnx"),
    Known("openvino", (), "model.xml"),
    Known("pytorch", ("pytorch_libtorch",), "model.pt"),
    Known("python", (), "model.py"),
)

PLATFORMS = {platform: known.backend for known in _KNOWN for platform in known.platforms} | {
    platform: "tensorflow" for platform, _ in _TENSORFLOW
}
"""The backend of each platform that Triton knows."""

PAIRED = frozenset(PLATFORMS.values())
"""Backends that go with no platform but their own."""


class Normal(NamedTuple):
    """What Triton takes a model for."""

    backend: str
    platform: str
    filename: str


def normalize(name: str, config: Any, files: Mapping[str, int] | None) -> Normal:
    """Complete what a configuration leaves out.

    Args:
        name: the model's name, which may end in a backend's (``model.identity``).
        config: its ModelConfig.
        files: the paths in its folder, or None where they are not known.
    """
    backend, platform, filename = config.backend, config.platform, config.default_model_filename
    held = _first_version(files)
    if not platform and backend in ("", "tensorflow"):
        for known_platform, known_filename in _TENSORFLOW:
            if filename == known_filename or (not filename and known_filename in held):
                platform = known_platform
    for known_platform, known_filename in _TENSORFLOW:
        if platform == known_platform:
            return Normal(backend or "tensorflow", platform, filename or known_filename)
    for known in _KNOWN:
        if not backend and (
            platform in known.platforms
            or filename == known.filename
            or (not platform and not filename and known.filename in held)
        ):
            backend = known.backend
        if backend == known.backend:
            own = platform or (known.platforms[0] if known.platforms else "")
            return Normal(backend, own, filename or known.filename)
    if not (backend or platform or filename) and "." in name:
        backend = name.split(".", 1)[1]
        filename = f"model.{backend}"
    return Normal(backend, platform, filename)


def _first_version(files: Mapping[str, int] | None) -> frozenset[str]:
    """What lies directly in the first version's folder; Triton takes the first of all folders, by name."""
    folders = sorted({path.split("/", 1)[0] for path in files or () if "/" in path})
    if not folders:
        return frozenset()
    return frozenset(path.split("/")[1] for path in files or () if path.startswith(f"{folders[0]}/"))
