"""For models of the Python backend that are as careful with batches as tritonkit's own backends."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tritonkit.backends.batching import configuration
from tritonkit.backends.batching.batcher import Batcher


class BatchedModel(ABC):
    """A base for ``TritonPythonModel``: say what to do with one whole batch, in ``compute``.

    Requests of equal shapes become one batch; each gets its own rows of the answer. Where a batch fails, its
    requests run one by one, so that only the one at fault gets the error. A subclass that has an ``initialize``
    calls this one's. ::

        class TritonPythonModel(BatchedModel):
            @abstractmethod
    def compute(self, inputs):
                return {"PIXELS": decode(inputs["IMAGE"])}
    """

    reuses_outputs = True

    def initialize(self, args: Mapping[str, str]) -> None:
        """Read the configuration, as Triton gives it."""
        self._batcher = Batcher(configuration.read(args), self, (), text=False)

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Answer every request, in order."""
        return self._batcher.execute(requests)

    @abstractmethod
    def compute(self, inputs: Mapping[str, Any]) -> Mapping[str, Any]:
        """All outputs by name for a batch: arrays whose first dimension is that of the inputs (with batching)."""

    def allocate(self, size: int) -> Any:
        """Memory for a batch, as an array of bytes."""
        return np.empty(size, np.uint8)

    def run(self, feed: Mapping[str, Any], wanted: Sequence[str]) -> Sequence[Any]:
        """The wanted outputs of one batch."""
        outputs = self.compute(feed)
        return [outputs[name] for name in wanted]

    def lost(self) -> str:
        """After an error: why the model can answer nothing any more, which ends its process; empty, as here, if it can.

        For models that use a GPU: a kernel that went astray leaves a context in which every later call fails.
        """
        return ""
