"""Where the files that ship with tritonkit lie."""

from __future__ import annotations

from pathlib import Path

CONFIG_TEMPLATE = "config.pbtxt.j2"
"""What a model's configuration is written from; the templates beside it are for what serves it."""


def templates_directory() -> Path:
    """The folder of Jinja2 templates and starters: inside the package when installed from a wheel, beside
    it in a source checkout or an editable installation.
    """
    package = Path(__file__).resolve().parent
    installed = package / "templates"
    return installed if installed.is_dir() else package.parent / "templates"
