"""Python-based Triton backends. They run inside tritonserver and import nothing else of tritonkit."""
