"""The model ``read_image``: bytes of PNG or JPEG files in, pixels for the network out."""

import numpy as np
import triton_python_backend_utils as pb_utils
from decoding import pixels


class TritonPythonModel:
    """What Triton's Python backend loads. ``execute`` gets several requests at once, each with a batch of images."""

    def execute(self, requests):
        """Answer every request: with the pixels of all its images, or with an error that names the image at fault."""
        return [self._answer(request) for request in requests]

    def _answer(self, request):
        images = pb_utils.get_input_tensor_by_name(request, "IMAGE").as_numpy().reshape(-1)
        decoded = []
        for index, image in enumerate(images):
            try:
                decoded.append(pixels(image))
            except ValueError as error:
                message = f"IMAGE {index} of the {len(images)} in this request: {error}"
                error_of_the_client = pb_utils.TritonError(message, pb_utils.TritonError.INVALID_ARG)
                return pb_utils.InferenceResponse(error=error_of_the_client)
        return pb_utils.InferenceResponse([pb_utils.Tensor("PIXELS", np.stack(decoded))])
