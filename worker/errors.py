"""Errors of the worker: images, sources, checkpoints and processes. The root is car.errors.CarError.

CarError
├── ImageError
│   ├── ImageMissingError        no such file, not readable, or a folder without images
│   ├── ImageUnsupportedError    not a supported format
│   ├── ImageTooLargeError       the file, or the pixel count in its header, is above the limit
│   └── ImageCorruptError        truncated or damaged
├── FetchError
│   ├── SourceForbiddenError     the SSRF guard refuses the address; the message names the setting that allows it
│   ├── SourceNotFoundError      nothing at this address
│   ├── SourceDeniedError        a token, key or permission is missing
│   ├── SourceTooLargeError      more bytes than allowed
│   └── SourceUnreachableError   no answer in time, or a server error; retryable
│       └── SourceTruncatedError the response ended too early; retryable
├── WeightsError
│   ├── WeightsMissingError      no such folder, file or hub model
│   └── WeightsInvalidError      not the expected checkpoint
├── PostprocessCrashedError      a postprocessing process died with its image; retryable
├── DeviceMissingError           no such device
├── OutOfMemoryError             too little device memory for this image, even alone
└── LabelStudioError             see worker.label_studio.errors
"""

from typing import NamedTuple

from car.errors import CarError


class Failure(NamedTuple):
    """What a queue table stores of an error."""

    code: str
    detail: str
    retryable: bool


def describe_error(error: Exception, *, retry_unexpected: bool = False) -> Failure:
    """Return what to store of a CarError, or of any other exception as an internal error."""
    if isinstance(error, CarError):
        return Failure(error.code, str(error), error.retryable)
    return Failure("internal_error", f"{type(error).__name__}: {error}", retry_unexpected)


class ImageError(CarError):
    code = "image_error"


class ImageMissingError(ImageError):
    code = "image_missing"


class ImageUnsupportedError(ImageError):
    code = "image_unsupported"


class ImageTooLargeError(ImageError):
    code = "image_too_large"


class ImageCorruptError(ImageError):
    code = "image_corrupt"


class FetchError(CarError):
    code = "source_error"


class SourceForbiddenError(FetchError):
    code = "source_forbidden"


class SourceNotFoundError(FetchError):
    code = "source_not_found"


class SourceDeniedError(FetchError):
    code = "source_denied"


class SourceTooLargeError(FetchError):
    code = "source_too_large"


class SourceUnreachableError(FetchError):
    code = "source_unreachable"
    retryable = True


class SourceTruncatedError(SourceUnreachableError):
    code = "source_truncated"


class OutOfMemoryError(CarError):
    code = "out_of_memory"


class DeviceMissingError(CarError):
    code = "device_missing"


class WeightsError(CarError):
    code = "weights_error"


class WeightsMissingError(WeightsError):
    code = "weights_missing"


class WeightsInvalidError(WeightsError):
    code = "weights_invalid"


class PostprocessCrashedError(CarError):
    code = "postprocess_crashed"
    retryable = True
