"""A stored result as the prediction that a labeling configuration asks for: for publishers and for /predict."""

import json
from typing import Any

from car.label_studio.prediction import PredictionInvalidError, PredictionPayload, StoredMasks, build_prediction
from car.label_studio.project_config import ProjectConfig

MAX_BYTES = 64 * 2**20
"""Bytes of a prediction, far above what regions bounded in size come to; Label Studio takes in 250 MiB."""


def render_prediction(
    masks: bytes,
    label_config: str,
    plan: ProjectConfig,
    *,
    run_key: str,
    model_version: str,
    **parts: Any,  # noqa: ANN401 - `only` and `within` of prediction_document
) -> PredictionPayload:
    """Render the prediction of a result from the bytes of its masks.json.

    Raises:
        PredictionInvalid: Label Studio's validation would refuse it, or it is too large.

    """
    found = StoredMasks.from_document(json.loads(masks))
    document = build_prediction(label_config, plan, found, run_key=run_key, model_version=model_version, **parts)
    if len(document.text) > MAX_BYTES:
        raise PredictionInvalidError(
            f"the prediction has {len(document.text):,} bytes, above the {MAX_BYTES:,} that are sent; choose polygons "
            "instead of brushes, or fewer labels"
        )
    return document
