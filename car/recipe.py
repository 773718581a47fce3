"""The recipe: every parameter of CaR that changes a mask, with presets for the data sets of the paper.

Symbols are the paper's (CVPR 2024, arXiv 2312.07661). Where its text and the code that made its tables differ, an
option chooses between `official` (the code) and `paper` (the text); `official` is the default.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import Field, asdict, dataclass, field, fields, replace
from enum import StrEnum
from functools import cached_property
from typing import Any, Self

from car.errors import RecipeError
from car.text_data import STUFF


class VisualPrompt(StrEnum):
    """How a mask is shown to the classifier; members stand in the order in which they are applied."""

    BLUR = "blur"
    GRAY = "gray"
    BLACK = "black"
    CIRCLE = "circle"
    RECTANGLE = "rectangle"
    CONTOUR = "contour"


class Mode(StrEnum):
    SEMANTIC = "semantic"
    """All queries compete for the pixels in one CRF."""
    REFER = "refer"
    """Each query proposes alone and gets its own CRF; masks may overlap (referring expressions)."""


class Cam(StrEnum):
    CAA = "caa"
    """GradCAM refined by class-aware attention affinity (CLIP-ES)."""
    GRADCAM = "gradcam"
    """GradCAM alone (paper Table 2)."""


class Crf(StrEnum):
    DENSE = "dense"
    NONE = "none"
    """The label of each pixel is the argmax of the CAMs and the background."""


class Arithmetic(StrEnum):
    OFFICIAL = "official"
    PAPER = "paper"


def _real(default: float, meaning: str, low: float = 0.0, high: float = 1.0) -> Any:  # noqa: ANN401 - a dataclass field
    return field(default=default, metadata={"says": meaning, "low": low, "high": high})


def _whole(default: int, meaning: str, low: int, high: int) -> Any:  # noqa: ANN401 - a dataclass field
    return field(default=default, metadata={"says": meaning, "low": low, "high": high})


def _choice(default: object, meaning: str) -> Any:  # noqa: ANN401 - a dataclass field
    return field(default=default, metadata={"says": meaning})


def _differs(meaning: str) -> Any:  # noqa: ANN401 - a dataclass field
    return field(default=Arithmetic.OFFICIAL, metadata={"says": meaning})


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Every parameter of one way of running CaR. Two recipes with one digest make the same masks of the same models.

    The meaning of each field is in its metadata (`says`), from which the table in docs/recipe.md is made.
    """

    preset: str = _choice("voc", "name of the preset this recipe began as; does not change masks")
    proposal_model: str = _choice("openai/clip-vit-base-patch16", "hub id of f where no folder is given")
    classifier_model: str = _choice("openai/clip-vit-large-patch14", "hub id of g where no folder is given")
    sam_model: str = _choice("sam-vit-h", "SAM where no folder is given: sam-vit-b, sam-vit-l or sam-vit-h")

    mode: Mode = _choice(Mode.SEMANTIC, "semantic: queries share the pixels; refer: one query at a time")
    cam: Cam = _choice(Cam.CAA, "GradCAM with attention affinity (caa) or without (gradcam)")
    eta: float = _real(0.4, "η: a CAM above it is the mask shown to the classifier")
    theta: float = _real(0.6, "θ: a query whose score is above it is kept")
    lambda_: float = _real(0.4, "λ: share of a CAM's maximum above which it spans the boxes of CAA")
    visual_prompts: tuple[VisualPrompt, ...] = _choice(
        (VisualPrompt.BLUR, VisualPrompt.CIRCLE), "v: how a mask is shown to the classifier, joined by +"
    )
    bg_factor: float = _real(1.0, "power of the background's probability in the CRF", 0.0, 100.0)
    max_side: int = _whole(
        1536, "an image with a longer side is segmented at this size and its masks enlarged; 0: never", 0, 100_000
    )
    max_steps: int = _whole(100, "safety net: the recurrence is stopped, and says so, after this many steps", 1, 10_000)

    stuff: tuple[str, ...] = _choice(
        (), "labels of a second pass with the others as background, joined by +, or context, context459, ade150"
    )
    stuff_visual_prompts: tuple[VisualPrompt, ...] = _choice(
        (), "visual prompts of the second pass; none: as the first"
    )
    stuff_bg_factor: float = _real(1.0, "bg_factor of the second pass", 0.0, 100.0)

    crf: Crf = _choice(Crf.DENSE, "dense CRF (dense) or the argmax of the CAMs (none)")
    crf_iterations: int = _whole(10, "mean-field iterations", 1, 100)
    crf_gaussian_sxy: float = _real(1.0, "smoothness kernel: deviation in pixels", 0.01, 1000.0)
    crf_gaussian_compat: float = _real(3.0, "smoothness kernel: Potts weight", 0.0, 1000.0)
    crf_bilateral_sxy: float = _real(67.0, "appearance kernel: deviation in pixels", 0.01, 1000.0)
    crf_bilateral_srgb: float = _real(3.0, "appearance kernel: deviation in grey levels", 0.01, 1000.0)
    crf_bilateral_compat: float = _real(4.0, "appearance kernel: Potts weight", 0.0, 1000.0)

    sam: bool = _choice(default=False, meaning="refine masks with SAM's automatic masks")
    iom: float = _real(0.6, "φ_iom: a SAM mask whose intersection over minimum is above it joins the union")
    iou: float = _real(0.9, "φ_iou: the union replaces the CRF mask where their IoU is above it (paper 0.7)")
    sam_min_pred: float = _real(0.05, "least share of a mask that a SAM mask must hold to be matched by its own area")
    sam_points_per_side: int = _whole(64, "SAM: grid of point prompts", 1, 256)
    sam_pred_iou: float = _real(0.88, "SAM: least predicted quality")
    sam_stability: float = _real(0.95, "SAM: least stability score")
    sam_box_nms: float = _real(0.7, "SAM: IoU of boxes above which the weaker mask is a duplicate")

    theta_bound: Arithmetic = _differs("θ itself is dropped (official, >) or kept (paper eq. 6, >=)")
    cam_text: Arithmetic = _differs("the CAM sees the raw word in step 1 (official) or always the template (paper)")
    classifier_depth: Arithmetic = _differs("g without its last block (official) or whole (paper)")
    classifier_softmax: Arithmetic = _differs(
        "softmax of the sum of the templates' softmaxes (official) or one softmax over mean text embeddings (paper)"
    )
    stop: Arithmetic = _differs(
        "two equal counts in a row, so two steps at least (official), or an unchanged set (paper)"
    )
    none_kept: Arithmetic = _differs("where every query falls, the best stays (official) or none (paper)")
    stuff_background: Arithmetic = _differs(
        "background of the first pass: the list (official) or the stuff labels (paper)"
    )
    gray_weights: Arithmetic = _differs("gray prompt: weights for BGR on RGB (official) or for RGB (paper)")
    crf_image: Arithmetic = _differs("the CRF sees mean-shifted BGR wrapped to a byte (official) or the image (paper)")
    box_ends: Arithmetic = _differs("CAA boxes end before the grid's last row and column (official) or on them (paper)")
    position_rounding: Arithmetic = _differs("positions rounded to float16 (official) or not (paper)")
    refer_filter: Arithmetic = _differs(
        "without templates, step 2 compares characters of the texts (official) or the texts (paper)"
    )

    def __post_init__(self) -> None:
        # The order of application is fixed, so two spellings of one set are one recipe.
        for name in ("visual_prompts", "stuff_visual_prompts"):
            given = getattr(self, name)
            object.__setattr__(self, name, tuple(v for v in VisualPrompt if v in given))
        if not self.visual_prompts:
            raise RecipeError("visual_prompts is empty: give at least one of " + "+".join(VisualPrompt))
        for one in fields(self):
            _check_range(one, getattr(self, one.name))

    @cached_property
    def digest(self) -> str:
        """Sha256 (hex) of what changes a mask, equal for equal recipes whatever they were called."""
        doc = asdict(self)
        for name in _NAMES_ONLY:
            del doc[name]
        if not self.sam:
            # With SAM its name counts, for recipes that differ in nothing else are to be kept apart.
            del doc["sam_model"]
        return hashlib.sha256(json.dumps(doc, sort_keys=True).encode()).hexdigest()

    def to_json(self) -> dict[str, Any]:
        """Every value under its key, as `--set` takes it."""
        return {key_of(name): list(v) if isinstance(v, tuple) else v for name, v in asdict(self).items()}

    def parameters(self) -> dict[str, Any]:
        """Every value but the names of models: those that ran may be others, which results name."""
        return {key: value for key, value in self.to_json().items() if not key.endswith("_model")}

    @classmethod
    def from_json(cls, doc: Mapping[str, Any]) -> Self:
        """The recipe that `to_json` wrote; keys that are absent keep their defaults."""
        values: dict[str, Any] = {}
        for key, value in doc.items():
            if key == "preset":
                values[key] = str(value)
                continue
            one = _field_of(key)
            values[one.name] = _parse(one, "+".join(value) if isinstance(value, list) else str(value))
        return cls(**values)

    def with_value(self, key: str, text: str) -> Self:
        """Return this recipe with the value of one key parsed from `text`.

        Raises:
            RecipeError: the key is unknown or cannot hold the value; the message lists what is allowed.

        """
        key_field = _field_of(key)
        return replace(self, **{key_field.name: _parse(key_field, text)})


_NAMES_ONLY = ("preset", "proposal_model", "classifier_model")


def key_of(name: str) -> str:
    """The key of a field: `lambda_` is `lambda` to the user."""
    return name.rstrip("_")


def differences() -> tuple[str, ...]:
    """Names of the options that choose between paper and official code."""
    return tuple(one.name for one in fields(Recipe) if one.default is Arithmetic.OFFICIAL)


def _field_of(key: str) -> "Field[Any]":
    for one in fields(Recipe):
        if key_of(one.name) == key and one.name != "preset":
            return one
    known = ", ".join(sorted(key_of(one.name) for one in fields(Recipe) if one.name != "preset"))
    raise RecipeError(f"unknown recipe key {key!r}; known keys: {known}, arithmetic")


def _parse(key_field: "Field[Any]", text: str) -> Any:  # noqa: ANN401 - as many types as fields
    key = key_of(key_field.name)
    kind: Any = type(key_field.default)
    try:
        if kind is bool:
            return {"true": True, "on": True, "1": True, "false": False, "off": False, "0": False}[text.lower()]
        if key_field.name == "stuff":
            return STUFF.get(text) or tuple(word.strip() for word in text.split("+") if word.strip())
        if kind is tuple:
            return tuple(VisualPrompt(word.strip()) for word in text.split("+") if word.strip())
        return kind(text)
    except (KeyError, ValueError):
        raise RecipeError(f"{key}={text!r} cannot be used: {key} takes {_takes(key_field)}") from None


def _takes(key_field: "Field[Any]") -> str:
    default = key_field.default
    if isinstance(default, bool):
        return "on or off"
    if isinstance(default, StrEnum):
        return " or ".join(type(default))
    if isinstance(default, tuple):
        return (
            f"labels joined by +, or {', '.join(STUFF)}"
            if key_field.name == "stuff"
            else "some of " + "+".join(VisualPrompt)
        )
    if "low" in key_field.metadata:
        kind = "a whole number" if isinstance(default, int) else "a number"
        return f"{kind} from {key_field.metadata['low']} to {key_field.metadata['high']}"
    return "a text"


def _check_range(key_field: "Field[Any]", value: object) -> None:
    if "low" not in key_field.metadata or not isinstance(value, int | float):
        return
    low, high = key_field.metadata["low"], key_field.metadata["high"]
    if not low <= value <= high:  # also refuses NaN
        raise RecipeError(f"{key_of(key_field.name)}={value} is out of range: it takes {_takes(key_field)}")
