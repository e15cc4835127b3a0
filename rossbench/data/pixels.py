"""Image files in any of Pillow's modes as squares of 8 bits in RGB: by the mode's true range, or not at all."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ..util.errors import DataError, InvalidValue, expect, one_line

if TYPE_CHECKING:
    from PIL.Image import Image

_EIGHT_BITS = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "HSV")
"""Pillow's modes of 8 bits a channel, or fewer, that it converts to RGB."""
_FROM_16_BITS = "I;16"
"""What the names of Pillow's modes of 16 bits begin with."""


def decode(path: Path, size: int) -> bytes:
    """An image as bytes of uint8 [3, size, size]: in RGB, its shorter side resized to size, its centre cropped.

    DataError, which names the file and its mode, if it cannot be.
    """
    import numpy as np
    from PIL import Image
    from torchvision.transforms import functional

    try:
        with Image.open(path) as image:
            square = functional.center_crop(functional.resize(_rgb(image), size), size)
        return np.asarray(square).transpose(2, 0, 1).tobytes()  # numpy's copy: one of torch's would start threads here
    except InvalidValue as error:
        raise DataError(f"{path}: {error}") from error
    except Exception as error:  # Pillow has many words for damage
        raise DataError(one_line(f"{path}: expected an image that can be decoded, got {error!r:.200}")) from error


def _rgb(image: Image) -> Image:
    """In RGB, 8 bits a channel, as Pillow converts it, an opacity being dropped; one of 16 bits by its whole range.

    Not turned by its EXIF orientation, and without its ICC profile, as torchvision. InvalidValue for an animation, for
    several pages, and for numbers whose range is not known.
    """
    frames, mode = getattr(image, "n_frames", 1), image.mode
    is_one = frames <= 1 or image.format == "MPO"  # a camera's file: the photo, and smaller ones of it
    expect(is_one, "", "one image in the file", f"{frames} ({image.format}, mode {mode})")
    if mode.startswith(_FROM_16_BITS) or (mode == "I" and image.format in ("PNG", "PPM")):  # which are of 16 bits then
        return _from_16_bits(image)
    bits = f"8 or 16 bits a channel, in gray, a palette, RGB or CMYK ({', '.join(_EIGHT_BITS)} or I;16)"
    expect(mode in _EIGHT_BITS, "", bits, f"mode {mode} in a {image.format} file; convert it to one of these")
    formats = {*getattr(image, "tag_v2", {}).get(339, ())}  # SampleFormat; Pillow reads -1 as 255
    expect(formats <= {1}, "", "numbers without a sign", f"signed ones of mode {mode}; convert it to unsigned")
    # A transparent palette goes by way of RGBA to the same colours, without a warning.
    return (image.convert("RGBA") if "transparency" in image.info else image).convert("RGB")


def _from_16_bits(image: Image) -> Image:
    """Of a gray image of 16 bits, or as many as its TIFF tags say, rounded to 8."""
    import numpy as np
    from PIL import Image

    tags = getattr(image, "tag_v2", {})
    is_black = tags.get(262) != 0  # PhotometricInterpretation; Pillow inverts 8 bits alone
    expect(is_black, "", "black as 0", f"white as 0 in mode {image.mode}; convert it to 8 bits first")
    white = 2 ** tags.get(258, (16,))[0] - 1  # BitsPerSample
    values = np.asarray(image).astype(np.int64)
    return Image.fromarray(((values * 255 + white // 2) // white).astype(np.uint8)).convert("RGB")
