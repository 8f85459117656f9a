"""A real Chromium for the tests of pages, and the picture of a report: ``python tests/browser.py FOLDER PICTURE``."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Browser, sync_playwright
from system_packages import find

from tritonkit.bench import report_source
from tritonkit.bench.report import write


@contextmanager
def chromium(program: Path) -> Iterator[Browser]:
    """The system's Chromium, without a window, for the time of the block."""
    with sync_playwright() as playwright:
        # Its sandbox refuses to run as root, as in a container; a report loads nothing from elsewhere.
        arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
        browser = playwright.chromium.launch(executable_path=program, args=arguments)
        try:
            yield browser
        finally:
            browser.close()


def picture(folder: Path, target: Path) -> None:
    """The top of a study's report, as a PNG file."""
    program = find("chromium")
    if program is None:
        raise SystemExit("chromium is not installed; install it with: apt-get install chromium")
    with tempfile.TemporaryDirectory() as scratch, chromium(program) as browser:
        page = browser.new_page(viewport={"width": 1100, "height": 1200})
        write(report_source.read([folder]), Path(scratch) / "report.html")
        page.goto((Path(scratch) / "report.html").as_uri())
        page.screenshot(path=target)


if __name__ == "__main__":
    picture(Path(sys.argv[1]), Path(sys.argv[2]))
