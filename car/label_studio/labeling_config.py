"""The parts of a labeling configuration that concern masks; parsed by `car.label_studio.labeling_xml`."""

from dataclasses import dataclass
from enum import StrEnum

from car.errors import CarError


class LabelingConfigError(CarError):
    """A labeling configuration in which no mask can be shown."""

    code = "labeling_config_invalid"


@dataclass(frozen=True)
class Problem:
    """A part of a configuration that is not used, and what to do about it."""

    code: str
    detail: str

    def to_json(self) -> dict[str, str]:
        return {"code": self.code, "detail": self.detail}


class Kind(StrEnum):
    """The kind of region that a mask becomes, in order of preference: the most exact first."""

    BRUSH = "brush"
    BITMASK = "bitmask"
    POLYGON = "polygon"
    RECTANGLE = "rectangle"
    CHOICES = "choices"


@dataclass(frozen=True)
class ImageTag:
    """The Image tag; `value` is unresolved: `$image` or `$photo.url`."""

    name: str
    value: str


@dataclass(frozen=True)
class ConfigLabel:
    """A Label or Choice, merged over its controls."""

    value: str
    """The label of regions: the `alias`, if there is one."""
    shown: str
    """The label that annotators see: `value`, or the alias without one."""
    predicted: tuple[str, ...] = ()
    """The words of `predicted_values="car, sedan"`."""
    alias: str = ""


@dataclass(frozen=True)
class Control:
    """A control that can show masks or choices."""

    name: str
    kind: Kind
    labels: tuple[str, ...]
    labels_name: str | None = None
    """Name of the Labels control that labels the regions of a plain Brush, Polygon or Rectangle."""
    single: bool = False
    """Choices of which only one can be selected."""


@dataclass(frozen=True)
class LabelingConfig:
    """The parts of a labeling configuration that concern masks."""

    image: ImageTag
    controls: tuple[Control, ...]
    labels: tuple[ConfigLabel, ...]
    """In the order of the configuration."""
    threshold: float | None
    """The lowest `model_score_threshold` of the controls."""
    referring: str | None
    """Value of the Text tag marked `referring="true"`, as `$caption`: the words of each task."""
    problems: tuple[Problem, ...]
