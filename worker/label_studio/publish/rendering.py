"""A result as the prediction that a project's labeling configuration asks for."""

from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Protocol

import structlog

from car.errors import CarError
from car.label_studio.prediction import PredictionPayload
from car.label_studio.prediction_rendering import render_prediction
from car.label_studio.project_config import build_project_config
from db.label_studio.outbox import OutboxRow


class Gettable(Protocol):
    """The part of db.objects.ObjectStore that rendering uses: see there."""

    def get(self, key: str) -> bytes: ...


class InternalError(CarError):
    """This code broke, not the row; a few more attempts are made."""

    code = "internal_error"
    retryable = True


@dataclass(frozen=True)
class Rendered:
    """Rows of one and the same document, or of the error that it met."""

    rows: tuple[OutboxRow, ...]
    made: PredictionPayload | CarError


def render_all(pool: Executor, objects: Gettable, rows: Sequence[OutboxRow], *, preset: str) -> list[Rendered]:
    """Each document once, however many tasks show the same picture. No error leaves this function."""
    alike: dict[object, list[OutboxRow]] = {}
    for row in rows:
        alike.setdefault((row.instance, row.ls_project_id, row.result_id, row.model_version), []).append(row)
    groups = [tuple(group) for group in alike.values()]
    made = pool.map(lambda group: _tried(objects, group[0], preset), groups)
    return [Rendered(group, document) for group, document in zip(groups, made, strict=True)]


def render(objects: Gettable, row: OutboxRow, *, preset: str) -> PredictionPayload:
    """The prediction of a row's result.

    Raises:
        PredictionInvalid: Label Studio's validation would refuse it, or it is too large.
        LabelingConfigError, RecipeError, VocabularyError: the project's configuration cannot be used any more.
        ObjectStoreError: the masks cannot be read.

    """
    plan = build_project_config(row.label_config, row.extra_params, preset=preset)
    return render_prediction(
        objects.get(row.masks_key), row.label_config, plan, run_key=row.run_key, model_version=row.model_version
    )


def _tried(objects: Gettable, row: OutboxRow, preset: str) -> PredictionPayload | CarError:
    try:
        return render(objects, row, preset=preset)
    except CarError as error:
        return error
    except Exception as error:  # noqa: BLE001 - the edge: a row that breaks this code must not stop its neighbours
        structlog.get_logger().exception("rendering_broke", prediction=row.id, result=str(row.result_id))
        return InternalError(f"{type(error).__name__}: {error}")
