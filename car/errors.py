"""Errors that users see.

CarError                       root: code, retryable, the message says what is wrong and what to do
├── RecipeError                an unknown preset or key, a value out of range
├── VocabularyError            a label, prompt, template or background word that cannot be used
├── SourceError                a bulk source that cannot be listed: an address, a glob or a manifest
├── RleError                   a mask that no run-length coding can hold, or counts that are no mask
├── LabelingConfigError        a labeling configuration in which no mask can be shown
├── PromptInvalidError         a prompt or click in Label Studio's editor that names nothing to segment
├── PredictionInvalidError     a prediction that Label Studio's validation refuses
├── AnnotationInvalidError     a region of an annotation in an unknown format
├── worker.segmenter.crf.ReferenceMissingError  pydensecrf was selected and is not installed
├── worker.errors.ImageError   an image that cannot be fetched or decoded
├── worker.errors.WeightsError a checkpoint that is missing or has unexpected content
└── worker.errors.PostprocessCrashedError  a postprocess worker died while it held an image
"""

from typing import ClassVar


class CarError(Exception):
    """The root of all errors whose message a user can act on.

    `code` is stable: it is stored with failed items and served by the API.
    `retryable` says whether the same input may succeed later without anyone changing it.
    """

    code: ClassVar[str] = "error"
    retryable: ClassVar[bool] = False


class RecipeError(CarError):
    """A preset or key is unknown, or a value is out of range."""

    code = "recipe_invalid"


class VocabularyError(CarError):
    """A label, prompt or template cannot be used; the message names it."""

    code = "vocabulary_invalid"


class SourceError(CarError):
    """An address, glob or manifest does not name images."""

    code = "source_invalid"


class RleError(CarError):
    """A mask cannot be run-length encoded, or run lengths do not describe a mask."""

    code = "rle_invalid"
