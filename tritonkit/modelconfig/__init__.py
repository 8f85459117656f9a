"""Triton's ModelConfig: made from a spec, written as text, read back from text."""
