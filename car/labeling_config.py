"""Label Studio's labeling configuration, read: which picture, which controls, which labels they hold.

Nothing that Label Studio takes is refused while something usable remains: what cannot be used is told as a `Problem`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from typing import TYPE_CHECKING, Final

from car.errors import CarError

if TYPE_CHECKING:
    pass

MAX_CHARACTERS: Final = 1_000_000
"""Two thousand labels take a fifth of it."""


class LabelingConfigError(CarError):
    """A labeling configuration with which no mask could become a region."""

    code = "labeling_config_invalid"


@dataclass(frozen=True)
class Problem:
    """What of a configuration is not used, and what to do about it."""

    code: str
    detail: str

    def to_json(self) -> dict[str, str]:
        return {"code": self.code, "detail": self.detail}


class Kind(StrEnum):
    """What a mask becomes. The order is that of preference: what says most about pixels comes first."""

    BRUSH = "brush"
    BITMASK = "bitmask"
    POLYGON = "polygon"
    RECTANGLE = "rectangle"
    CHOICES = "choices"


@dataclass(frozen=True)
class ImageTag:
    """The picture's tag; `value` is as written, `$image` or `$photo.url`."""

    name: str
    value: str


@dataclass(frozen=True)
class ConfigLabel:
    """A Label or Choice, merged over the controls that hold it."""

    value: str
    """What regions carry: `alias` where there is one, as Label Studio does it."""
    shown: str
    predicted: tuple[str, ...] = ()
    """Of `predicted_values="car, sedan"`."""
    alias: str = ""
    hint: str = ""


@dataclass(frozen=True)
class Control:
    """A control that can show what was found."""

    name: str
    kind: Kind
    labels: tuple[str, ...]
    labels_name: str | None = None
    """Of the Labels control that names the regions of a plain Brush, Polygon or Rectangle."""
    single: bool = False
    """Choices of which one alone may be chosen."""
    threshold: float | None = None
    """`model_score_threshold`."""


@dataclass(frozen=True)
class LabelingConfig:
    """What of a labeling configuration concerns masks."""

    image: ImageTag
    controls: tuple[Control, ...]
    labels: tuple[ConfigLabel, ...]
    """In the order of the configuration."""
    texts: Mapping[str, str]
    """Text tags beside the picture: name -> value, as `$caption`."""
    prompts: tuple[str, ...]
    """Names of TextArea, keypoint and other controls by which a person may ask, smart ones and others."""
    problems: tuple[Problem, ...]

    @cached_property
    def threshold(self) -> float | None:
        """The lowest `model_score_threshold`."""
        return min((one.threshold for one in self.controls if one.threshold is not None), default=None)
