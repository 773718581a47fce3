"""Convert colors by an image's embedded ICC profile to sRGB, as browsers do."""

from io import BytesIO

import numpy as np
from PIL import Image, ImageCms

from car.printable import printable

_MAX_BYTES = 4 * 2**20
"""Size of a profile; larger ones are ignored."""
_MAX_NAME = 60
_STEPS = 9
_FLAGS = ImageCms.Flags.BLACKPOINTCOMPENSATION


def to_srgb(image: Image.Image) -> tuple[Image.Image, list[str]]:
    """Return an 8-bit image with an `icc_profile` in sRGB, and a note if that changed it.

    An image with a profile that is damaged, or made for another kind of image, is returned as it is, with a note.
    """
    data = image.info["icc_profile"]
    alpha = image.convert("RGBA").getchannel("A") if image.has_transparency_data else None
    colors = image if image.mode in ("RGB", "L", "CMYK") else image.convert("L" if image.mode == "LA" else "RGB")
    try:
        if len(data) > _MAX_BYTES:
            raise ValueError(f"{len(data):,} bytes are too many")  # noqa: TRY301 - handled like a damaged one
        profile = ImageCms.ImageCmsProfile(BytesIO(data))
        intent = ImageCms.Intent.RELATIVE_COLORIMETRIC
        transform = ImageCms.buildTransform(profile, ImageCms.createProfile("sRGB"), colors.mode, "RGB", intent, _FLAGS)
        if colors.mode == "RGB" and _is_identity(transform):
            return image, []
        converted = ImageCms.applyTransform(colors, transform)
        name = printable(ImageCms.getProfileDescription(profile).strip())[:_MAX_NAME] or "its color profile"
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError) as error:
        return image, [f"color profile ignored ({printable(error)})"]
    if converted is None:
        return image, []
    if alpha is not None:
        converted.putalpha(alpha)
    return converted, [f"colors converted from {name} to sRGB"]


def _is_identity(transform: ImageCms.ImageCmsTransform) -> bool:
    """Return whether a transform from RGB changes no color by more than one step, as that of an sRGB profile."""
    steps = np.linspace(0, 255, _STEPS).round().astype(np.uint8)
    cube = np.stack(np.meshgrid(steps, steps, steps), axis=-1).reshape(_STEPS, -1, 3)
    changed = ImageCms.applyTransform(Image.fromarray(cube), transform)
    return changed is not None and int(np.abs(np.asarray(changed).astype(int) - cube).max()) <= 1
