"""A stored result as the prediction that a labeling configuration asks for: for publishers and for /predict."""

import json
from collections.abc import Callable
from typing import Any

from car.prediction_document import Document, Found, PredictionInvalid, prediction_document
from car.project_plan import ProjectPlan

MAX_BYTES = 64 * 2**20
"""Bytes of a prediction, far above what regions bounded in size come to; Label Studio takes in 250 MiB."""


def render_prediction(
    read: Callable[[str], bytes],
    masks_key: str,
    label_config: str,
    plan: ProjectPlan,
    *,
    run_key: str,
    model_version: str,
    **parts: Any,  # noqa: ANN401 - `only` and `within` of prediction_document
) -> Document:
    """Render the prediction of a result, whose masks `read` fetches by their key.

    Raises:
        PredictionInvalid: Label Studio's validation would refuse it, or it is too large.
        ObjectStoreError: the masks cannot be read.

    """
    found = Found.of_document(json.loads(read(masks_key)))
    document = prediction_document(label_config, plan, found, run_key=run_key, model_version=model_version, **parts)
    if len(document.text) > MAX_BYTES:
        raise PredictionInvalid(
            f"the prediction has {len(document.text):,} bytes, above the {MAX_BYTES:,} that are sent; choose polygons "
            "instead of brushes, or fewer labels"
        )
    return document
