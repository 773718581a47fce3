"""Parser of labeling configurations: the image, the controls and their labels.

A configuration that Label Studio accepts is refused only if nothing in it can be used; parts that cannot be used become
`Problem`s. As in Label Studio's editor, regions carry a label's `alias` if it has one.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from defusedxml.common import DefusedXmlException
from defusedxml.ElementTree import ParseError, fromstring

from car.label_studio.labeling_config import (
    ConfigLabel,
    Control,
    ImageTag,
    Kind,
    LabelingConfig,
    LabelingConfigError,
    Problem,
)

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

MAX_CHARACTERS: Final = 1_000_000
"""Two thousand labels take a fifth of this."""

_LABELED: Final = {
    "brushlabels": Kind.BRUSH,
    "bitmasklabels": Kind.BITMASK,
    "polygonlabels": Kind.POLYGON,
    "rectanglelabels": Kind.RECTANGLE,
    "choices": Kind.CHOICES,
}
_PLAIN: Final = {"brush": Kind.BRUSH, "polygon": Kind.POLYGON, "rectangle": Kind.RECTANGLE}
_ADVICE: Final = "show its labels in BrushLabels, BitmaskLabels, PolygonLabels or RectangleLabels too"
_DECLARATION: Final = re.compile(r"^\s*<\?xml[^>]*\?>")


def without_declaration(label_config: str) -> str:
    """Remove `<?xml …?>`, because parsers of str refuse an encoding declaration."""
    return _DECLARATION.sub("", label_config)


def parse_labeling_config(label_config: str) -> LabelingConfig:
    """Parse what concerns masks; unused parts become problems.

    Raises:
        LabelingConfigError: there is no image, or no control that can show a mask of it.

    """
    return _ConfigReader(_root(label_config)).config()


def _root(label_config: str) -> "Element":
    if len(label_config) > MAX_CHARACTERS:
        raise LabelingConfigError(
            f"the labeling configuration has {len(label_config)} characters; the maximum is {MAX_CHARACTERS}: "
            "shorten it"
        )
    try:
        root: Element = fromstring(without_declaration(label_config), forbid_dtd=True)
    except DefusedXmlException:
        raise LabelingConfigError("the labeling configuration declares a DTD or entities: remove them") from None
    except (ParseError, ValueError) as error:
        raise LabelingConfigError(f"the labeling configuration is not valid XML: {error}") from None
    return root


def attribute(element: "Element", name: str) -> str:
    """Return an attribute in any case, as Label Studio's editor reads it; "" if it is absent."""
    given = element.get(name)
    if given is None:
        given = next((value for key, value in element.items() if key.lower() == name.lower()), "")
    return given.strip()


class _ConfigReader:
    """One pass over a configuration."""

    def __init__(self, root: "Element") -> None:
        self.root = root
        self.parents = {child: parent for parent in root.iter() for child in parent}
        self.problems: list[Problem] = []
        self.labels: dict[str, ConfigLabel] = {}

    def report(self, code: str, detail: str) -> None:
        self.problems.append(Problem(code, detail))

    def config(self) -> LabelingConfig:
        elements = list(self.root.iter())
        image = self._image(elements)
        holders = [one for one in elements if one.get("name") and one.get("toName")]
        controls = {one.name: one for holder in holders for one in self._control(holder, image, holders)}
        if not any(one.labels for one in controls.values()):
            raise LabelingConfigError(
                "no control of the labeling configuration can show a mask: add BrushLabels, BitmaskLabels, "
                f"PolygonLabels, RectangleLabels or Choices with labels and toName={image.name!r}"
                + "".join(f"; {one.detail}" for one in self.problems[:3])
            )
        used = {value for one in controls.values() for value in one.labels}
        for holder in holders:
            self._report_unused(holder, image, controls, used)
        return LabelingConfig(
            image=image,
            controls=tuple(one for one in controls.values() if one.labels),
            labels=tuple(one for one in self.labels.values() if one.value in used),
            threshold=self._threshold([one for one in holders if one.get("name") in controls]),
            referring=self._referring(elements),
            problems=tuple(self.problems),
        )

    def _image(self, elements: "list[Element]") -> ImageTag:
        images = [one for one in elements if one.tag.lower() == "image" and one.get("name")]
        usable = [one for one in images if "$" in attribute(one, "value")]
        if not usable:
            raise LabelingConfigError(
                "the labeling configuration shows several images per task (valueList), which is not supported: give "
                'its tag one image, value="$image"'
                if images
                else 'the labeling configuration has no image: add <Image name="image" value="$image"/>'
            )
        wanted = {name for one in elements for name in _targets(one) if one.tag.lower() in _LABELED}
        chosen = next((one for one in usable if one.get("name") in wanted), usable[0])
        for other in images:
            if other is not chosen:
                self.report(
                    "image_not_labeled",
                    f"Image {other.get('name')!r} is not labeled: only one image per task is, {chosen.get('name')!r}; "
                    "create separate tasks for the other",
                )
        return ImageTag(chosen.get("name", ""), attribute(chosen, "value"))

    def _control(self, holder: "Element", image: ImageTag, holders: "list[Element]") -> Iterator[Control]:
        """Return the control of an element, or None if it cannot show masks."""
        tag, name = holder.tag.lower(), holder.get("name", "")
        if image.name not in _targets(holder):
            return
        if tag in _LABELED:
            if tag == "choices" and attribute(holder, "perRegion").lower() == "true":
                self.report("choices_per_region", f"Choices {name!r} belong to regions and are not predicted")
                return
            single = tag == "choices" and attribute(holder, "choice").lower() != "multiple"
            yield Control(name, _LABELED[tag], self._values(holder), single=single)
        elif tag in _PLAIN:
            partner = next((o for o in holders if o.tag.lower() == "labels" and image.name in _targets(o)), None)
            if partner is None:
                self.report(
                    "control_without_labels",
                    f"{holder.tag} {name!r} is not used, because its regions have no label: use {holder.tag}Labels, "
                    "or add a Labels control for the image",
                )
                return
            yield Control(name, _PLAIN[tag], self._values(partner), labels_name=partner.get("name"))

    def _values(self, holder: "Element") -> tuple[str, ...]:
        """Return the values of a control's labels, and record the labels."""
        if attribute(holder, "value").startswith("$"):
            self.report(
                "labels_of_task",
                f"{holder.tag} {holder.get('name')!r} takes its labels from the tasks, so they are not queried: "
                "write them into the configuration",
            )
        values = [self._label(one, holder) for one in holder.iter() if one.tag in ("Label", "Choice")]
        return tuple(dict.fromkeys(value for value in values if value))

    def _label(self, element: "Element", holder: "Element") -> str:
        where = f"{holder.tag} {holder.get('name')!r}"
        # Label Studio does not strip values: leading and trailing spaces belong to them.
        shown, alias = element.get("value", ""), element.get("alias", "")
        value = alias or shown
        if not value.strip():
            self.report("label_empty", f"a {element.tag} of {where} has no value: add one, or remove it")
            return ""
        if element.tag == "Choice" and self.parents[element].tag == "Choice":
            self.report("choice_nested", f"Choice {value!r} of {where} is nested in another one and is not predicted")
            return ""
        predicted = tuple(word.strip() for word in attribute(element, "predicted_values").split(",") if word.strip())
        # `hint` is for annotators only: it is not read.
        new = ConfigLabel(value, shown.strip() or value.strip(), predicted, alias.strip())
        old = self.labels.get(value, new)
        merged = tuple(dict.fromkeys(old.predicted + predicted))
        self.labels[value] = replace(old, predicted=merged)
        return value

    def _report_unused(
        self, holder: "Element", image: ImageTag, controls: Mapping[str, Control], used: set[str]
    ) -> None:
        """Report a control whose labels no other control shows, so that no label is missing silently."""
        name, tag = holder.get("name", ""), holder.tag
        partners = {one.labels_name for one in controls.values()}
        if name in controls or name in partners or (tag.lower() == "choices" and image.name in _targets(holder)):
            return
        held = [str(o.get("alias") or o.get("value") or "") for o in holder.iter() if o.tag in ("Label", "Choice")]
        missing = [value for value in dict.fromkeys(held) if value and value not in used]
        if not missing:
            return
        words = ", ".join(missing[:5]) + (f" and {len(missing) - 5} more" if len(missing) > 5 else "")  # noqa: PLR2004
        if image.name not in _targets(holder):
            self.report("control_elsewhere", f"{tag} {name!r} does not belong to the image, so {words} are not queried")
        else:
            detail = f"{tag} {name!r} cannot show masks, so {words} are not queried: {_ADVICE}"
            self.report("control_unsupported", detail)

    def _threshold(self, holders: "list[Element]") -> float | None:
        values: dict[float, str] = {}
        for holder in holders:
            text, name = attribute(holder, "model_score_threshold"), holder.get("name", "")
            if not text:
                continue
            try:
                number = float(text)
            except ValueError:
                number = -1.0
            if 0 <= number <= 1:
                values.setdefault(number, name)
            else:
                self.report(
                    "threshold_invalid",
                    f"model_score_threshold={text!r} of {name!r} is ignored: it must be a number from 0 to 1",
                )
        if len(values) > 1:
            lowest = min(values)
            detail = f"one threshold applies to all controls: {lowest}, that of {values[lowest]!r}"
            self.report("thresholds_differ", detail)
        return min(values, default=None)

    def _referring(self, elements: "list[Element]") -> str | None:
        marked = [
            attribute(one, "value")
            for one in elements
            if one.tag.lower() in ("text", "hypertext") and attribute(one, "referring").lower() == "true"
        ]
        return next((value for value in marked if "$" in value), None)


def _targets(element: "Element") -> list[str]:
    return [name.strip() for name in element.get("toName", "").split(",")]
