"""Measuring a server that runs: perf_analyzer, one load level at a time, and what came out."""
