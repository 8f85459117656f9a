"""The TCP ports that Triton listens on unless it is told otherwise."""

from __future__ import annotations

from collections.abc import Mapping

DEFAULT_PORTS: Mapping[str, int] = {"http": 8000, "grpc": 8001, "metrics": 8002}
"""By the service's name."""
