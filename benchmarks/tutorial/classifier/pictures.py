"""Pictures in base64 as the tensor that a network takes."""

import base64
import io

import numpy as np
from PIL import Image


def batch(pictures, shape):
    """Decode pictures to FP32 [N, channels, height, width], from 0 to 1.

    Raises:
        ValueError: one cannot be decoded; the message says which.

    """
    channels, height, width = shape
    values = []
    for index, picture in enumerate(pictures):
        try:
            image = Image.open(io.BytesIO(base64.b64decode(picture))).convert("RGB" if channels == 3 else "L")
        except Exception as error:  # Pillow raises many kinds of errors for broken files.
            raise ValueError(f"picture {index} of {len(pictures)}: {error}") from error
        array = np.asarray(image.resize((width, height)), dtype=np.float32) / 255
        values.append(array.reshape(height, width, channels).transpose(2, 0, 1))
    return np.ascontiguousarray(np.stack(values))
