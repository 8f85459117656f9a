"""How far predictions from one profile are off at the points of another: two CSV files, no GPU.

    PYTHONPATH=. python benchmarks/provisioning_points.py PROFILE HELD

Prints the tables that ``provisioning_gpu.py`` prints of its own profile and of the points that it held out.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from provisioning_gpu import errors, report_errors, report_fits

from tritonkit.provision.prediction import behaviours
from tritonkit.provision.profiles import read

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("profile", type=Path)
    parser.add_argument("held", type=Path)
    options = parser.parse_args()
    known = behaviours(read(options.profile))
    report_fits(known)
    report_errors(*errors(known, read(options.held)))
