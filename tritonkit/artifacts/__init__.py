"""The files that Triton loads: what they hold, and later how they are made."""
