"""What runs a batch: one module a runtime. None of them knows Triton's requests."""
