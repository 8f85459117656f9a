"""A classifier in Triton's Python backend: a picture in base64 goes in, a label and its probability come out."""

import json
from pathlib import Path

import numpy as np
import torch
import triton_python_backend_utils as pb_utils
from pictures import batch


class TritonPythonModel:
    """What Triton's Python backend loads."""

    def initialize(self, args):
        """Load the network, onto the instance's GPU if it has one."""
        config = json.loads(args["model_config"])
        on_gpu = args["model_instance_kind"] == "GPU"
        self.device = f"cuda:{args['model_instance_device_id']}" if on_gpu else "cpu"
        self.shape = json.loads(config["parameters"]["shape"]["string_value"])
        if not on_gpu:
            torch.set_num_threads(1)
        self.network = torch.jit.load(str(Path(args["model_repository"]) / "network.pt"), map_location=self.device)

    def execute(self, requests):
        """Answer every request, each with all the pictures of its batch."""
        return [self._answer(request) for request in requests]

    def _answer(self, request):
        pictures = pb_utils.get_input_tensor_by_name(request, "INPUT_IMAGE").as_numpy().reshape(-1)
        try:
            values = batch(pictures, self.shape)
        except ValueError as error:
            return pb_utils.InferenceResponse(error=pb_utils.TritonError(str(error), pb_utils.TritonError.INVALID_ARG))
        with torch.inference_mode():
            scores = self.network(torch.from_numpy(values).to(self.device)).softmax(dim=1).cpu().numpy()
        labels = np.array([str(index).encode() for index in scores.argmax(axis=1)], dtype=object)
        return pb_utils.InferenceResponse(
            [pb_utils.Tensor("LABEL", labels[:, None]), pb_utils.Tensor("PROBABILITY", scores.max(axis=1)[:, None])]
        )
