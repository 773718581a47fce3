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


class ImageMissing(ImageError):  # noqa: N818 - the name is the sentence
    code = "image_missing"


class ImageUnsupported(ImageError):  # noqa: N818
    code = "image_unsupported"


class ImageTooLarge(ImageError):  # noqa: N818
    code = "image_too_large"


class ImageCorrupt(ImageError):  # noqa: N818
    code = "image_corrupt"


class FetchError(CarError):
    code = "source_error"


class SourceForbidden(FetchError):  # noqa: N818
    code = "source_forbidden"


class SourceNotFound(FetchError):  # noqa: N818
    code = "source_not_found"


class SourceDenied(FetchError):  # noqa: N818
    code = "source_denied"


class SourceTooLarge(FetchError):  # noqa: N818
    code = "source_too_large"


class SourceUnreachable(FetchError):  # noqa: N818
    code = "source_unreachable"
    retryable = True


class SourceTruncated(SourceUnreachable):
    code = "source_truncated"


class OutOfMemory(CarError):  # noqa: N818
    code = "out_of_memory"


class DeviceMissing(CarError):  # noqa: N818
    code = "device_missing"


class WeightsError(CarError):
    code = "weights_error"


class WeightsMissing(WeightsError):  # noqa: N818
    code = "weights_missing"


class WeightsInvalid(WeightsError):  # noqa: N818
    code = "weights_invalid"


class FinisherLost(CarError):  # noqa: N818
    code = "finisher_lost"
    retryable = True
