"""Errors of the worker's edges: pictures, checkpoints and processes. The root is car.errors.CarError.

CarError
├── ImageError
│   ├── ImageMissing        no such file, not readable, or a folder without pictures
│   ├── ImageUnsupported    not one of the formats we open
│   ├── ImageTooLarge       the file, or the pixels its header promises, are more than allowed
│   └── ImageCorrupt        truncated or damaged
├── FetchError
│   ├── SourceForbidden     an address that this service asks nobody for; says which setting would allow it
│   ├── SourceNotFound      nothing is there
│   ├── SourceDenied        a token, a key or a right is missing
│   ├── SourceTooLarge      more bytes than allowed
│   └── SourceUnreachable   no answer in time, or a server in trouble; retryable
│       └── SourceTruncated the answer ended before the picture did; retryable
├── WeightsError
│   ├── WeightsMissing      no such folder, file or hub model
│   └── WeightsInvalid      not the checkpoint that was expected
├── FinisherLost            the process that finished a picture died with it in hand
├── DeviceMissing           no such device here
├── OutOfMemory             the device has too little memory for this many pictures, or for this one
└── LabelStudioError        see worker.label_studio.errors
"""

from car.errors import CarError


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
    code = "finisher_lost"
    retryable = True
