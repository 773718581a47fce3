"""What of a Label Studio labeling configuration concerns masks. Read by `car.label_studio.labeling_xml`."""

from dataclasses import dataclass
from enum import StrEnum

from car.errors import CarError


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
    """What regions carry: `alias` where there is one."""
    shown: str
    """What annotators read: `value`, or the alias where there is no value."""
    predicted: tuple[str, ...] = ()
    """Of `predicted_values="car, sedan"`."""
    alias: str = ""


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


@dataclass(frozen=True)
class LabelingConfig:
    """What of a labeling configuration concerns masks."""

    image: ImageTag
    controls: tuple[Control, ...]
    labels: tuple[ConfigLabel, ...]
    """In the order of the configuration."""
    threshold: float | None
    """The lowest `model_score_threshold` of the controls."""
    referring: str | None
    """Value of the Text tag marked `referring="true"`, as `$caption`: the words of each task."""
    problems: tuple[Problem, ...]
