"""The command line: parse, call the library, print. Nothing below this package prints or exits."""

from tritonkit.cli.app import main

__all__ = ["main"]
