"""Render results as predictions for their projects' labeling configurations."""

from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass

import structlog

from car.errors import CarError
from car.label_studio.prediction import PredictionPayload, render_prediction
from car.label_studio.project_config import build_project_config
from car.object_store import ObjectStore
from db.label_studio.outbox import OutboxRow


class InternalError(CarError):
    """An unexpected exception; the row is tried a few more times."""

    code = "internal_error"
    retryable = True


@dataclass(frozen=True)
class Rendered:
    """Rows that share a prediction, and the prediction or the error."""

    rows: tuple[OutboxRow, ...]
    outcome: PredictionPayload | CarError


def render_all(pool: Executor, objects: ObjectStore, rows: Sequence[OutboxRow], *, preset: str) -> list[Rendered]:
    """Render each distinct prediction once, even if many tasks show the same image. Errors are returned."""
    groups: dict[object, list[OutboxRow]] = {}
    for row in rows:
        groups.setdefault((row.instance, row.ls_project_id, row.result_id, row.model_version), []).append(row)
    outcomes = pool.map(lambda group: _render(objects, group[0], preset), groups.values())
    return [Rendered(tuple(group), outcome) for group, outcome in zip(groups.values(), outcomes, strict=True)]


def _render(objects: ObjectStore, row: OutboxRow, preset: str) -> PredictionPayload | CarError:
    try:
        config = build_project_config(row.label_config, row.extra_params, preset=preset)
        masks = objects.get(row.masks_key)
        return render_prediction(masks, row.label_config, config, run_key=row.run_key, model_version=row.model_version)
    except CarError as error:
        return error
    except Exception as error:  # noqa: BLE001 - the edge: a row that breaks this code must not stop the others
        structlog.get_logger().exception("rendering_failed", prediction=row.id, result=str(row.result_id))
        return InternalError(f"{type(error).__name__}: {error}")
