"""Validation of predictions by Label Studio's SDK, before they are sent.

The SDK takes a second to import, so it is imported on first use.
"""

import warnings
from functools import lru_cache
from typing import Any, Final

from car.errors import CarError
from car.label_studio.labeling_xml import without_declaration

_SHOWN: Final = 200
"""Characters of an error; the SDK's errors repeat whole masks."""


class PredictionInvalidError(CarError):
    """A prediction that Label Studio's validation refuses; it was not sent."""

    code = "prediction_invalid"


def validate_prediction(label_config: str, prediction: dict[str, Any]) -> None:
    """Raises: PredictionInvalidError."""
    try:
        errors = _interface(label_config).validate_prediction(prediction, return_errors=True)
    except Exception as error:  # noqa: BLE001 - the SDK raises whatever its parsers raise
        errors = [f"the labeling configuration cannot be read by Label Studio's SDK: {error}"]
    if errors:
        # After "Got:" comes the whole region.
        shown = str(errors[0]).partition(" Got: ")[0][:_SHOWN]
        more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
        raise PredictionInvalidError(
            f"Label Studio would refuse this prediction: {shown}{more}. Compare the project's labeling configuration "
            "with the regions and report this defect"
        )


@lru_cache(maxsize=64)
def _interface(label_config: str) -> Any:  # noqa: ANN401 - the SDK's LabelInterface
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its classes use pydantic's old style
        from label_studio_sdk.label_interface import LabelInterface  # noqa: PLC0415 - see above
        from label_studio_sdk.label_interface.control_tags import ControlTag  # noqa: PLC0415
    from pydantic import BaseModel  # noqa: PLC0415

    class BitmaskLabelsValue(BaseModel):
        imageDataURL: str  # noqa: N815 - Label Studio's name
        bitmasklabels: list[str]

    class BitmaskLabels(ControlTag):  # type: ignore[misc] # the SDK's classes are untyped here
        """Return whether the SDK is too old to know bitmasks, which it then refuses."""

        tag: str = "BitmaskLabels"
        _label_attr_name: str = "bitmasklabels"
        _value_class: type = BitmaskLabelsValue

    return LabelInterface(without_declaration(label_config), tags_mapping={"bitmasklabels": BitmaskLabels})
