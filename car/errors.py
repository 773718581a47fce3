"""The errors a user can meet.

CarError                       root: code, retryable, the message says what is wrong and what to do
├── RecipeError                an unknown preset or key, a value out of range
├── VocabularyError            a label, prompt, template or background word that cannot be used
├── SourceError                a bulk source that cannot be listed: an address, a glob or a manifest
├── RleError                   a mask that no run-length coding can hold, or counts that are no mask
├── LabelingConfigError        a labeling configuration of Label Studio with which no mask could be shown
├── PromptInvalid              a prompt or a click in its editor from which no question can be made
├── PredictionInvalid          a prediction that its own validation refuses
├── AnnotationInvalid          a region of an annotation that is not as it writes them
├── worker.segmenter.crf.ReferenceMissing  pydensecrf is asked for and not installed
├── worker.errors.ImageError   a picture that cannot be fetched or decoded
├── worker.errors.WeightsError a checkpoint that is missing or is not what was expected
└── worker.errors.FinisherLost a process that died with a picture in hand
"""

from typing import ClassVar


class CarError(Exception):
    """What went wrong, in words a user can act on.

    `code` is stable: it is stored with failed items and served by the API.
    `retryable` says whether the same input may succeed later without anyone changing it.
    """

    code: ClassVar[str] = "error"
    retryable: ClassVar[bool] = False


class RecipeError(CarError):
    """A preset, key or value that no recipe can hold."""

    code = "recipe_invalid"


class VocabularyError(CarError):
    """A word that cannot be asked for; the message names it."""

    code = "vocabulary_invalid"


class SourceError(CarError):
    """An address, a glob or a manifest that names no pictures."""

    code = "source_invalid"


class RleError(CarError):
    """A mask that no run-length coding can hold, or run lengths that describe no mask."""

    code = "rle_invalid"
