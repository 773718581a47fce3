"""Images from files and bytes: found, checked against limits, and decoded to RGB as a browser shows them."""

from worker.images.decode import DEFAULT_LIMITS, DecodedImage, ImageLimits, open_image
from worker.images.files import describe_passed_over, find_images

__all__ = [
    "DEFAULT_LIMITS",
    "DecodedImage",
    "ImageLimits",
    "describe_passed_over",
    "find_images",
    "open_image",
]
