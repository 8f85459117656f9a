"""``python -m tritonkit`` is the same as ``tritonkit``."""

from tritonkit.cli import main

if __name__ == "__main__":
    main()
