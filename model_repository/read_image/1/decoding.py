"""From the bytes of an image file to the pixels that the network takes."""

import io

import numpy as np
from PIL import Image, ImageOps

SIDE = 8
FORMATS = ("PNG", "JPEG")
# A file of a few kilobytes can claim an image of many gigabytes: refuse by the claim, before decoding.
MOST_PIXELS = 24_000_000
_SIXTEEN_BITS = ("I", "I;16", "I;16B", "I;16L", "I;16N")


def pixels(image: bytes) -> np.ndarray:
    """Decode one image file to FP32 [1,8,8], from 0 (black) to 1 (white).

    Colours become shades of grey, transparent parts black, and other sizes 8x8. The network knows bright ink on a
    dark ground.

    Raises:
        ValueError: the bytes are no readable PNG or JPEG image, or it has too many pixels. The message says which.

    """
    if not image:
        raise ValueError("empty: expected the bytes of a PNG or JPEG file")
    try:
        with Image.open(io.BytesIO(image), formats=FORMATS) as opened:
            width, height = opened.size
            if width * height > MOST_PIXELS:
                raise ValueError(f"{width}x{height} is too large: at most {MOST_PIXELS:,} pixels")
            grey = _grey(ImageOps.exif_transpose(opened))
    except Image.UnidentifiedImageError:
        raise ValueError(f"not a PNG or JPEG file: it begins with {image[:8]!r}") from None
    except ValueError:
        raise
    except Exception as error:  # Pillow raises many kinds of errors for broken files.
        raise ValueError(f"cannot be decoded: {error or type(error).__name__}") from error
    if grey.size != (SIDE, SIDE):
        grey = grey.resize((SIDE, SIDE), Image.Resampling.BOX)
    return np.asarray(grey, dtype=np.float32)[np.newaxis] / np.float32(255)


def _grey(image: Image.Image) -> Image.Image:
    if image.mode in _SIXTEEN_BITS:
        # Pillow cuts such values off at 255 instead of scaling them.
        return Image.fromarray((np.asarray(image).astype(np.uint32) // 257).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        ground = Image.new("RGBA", image.size, "black")
        image = Image.alpha_composite(ground, image)
    return image.convert("L")
