"""One YAML file to a tuned, isolated, multi-model deployment of NVIDIA Triton Inference Server."""

__version__ = "0.1.0"
