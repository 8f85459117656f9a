"""Triton's rules for a ModelConfig, one small rule each, told apart by what they look at."""
