"""What Label Studio is owed: one prediction for each task whose picture is done."""

from collections.abc import Collection

from sqlalchemy import text
from sqlalchemy.orm import Session

SUPERSEDED = "superseded"
"""Error code of predictions that were dropped when words or regions changed; owed again when these return."""


def version_of(words: str, regions: str) -> str:
    """car.model_version.label_studio_version of a result, in SQL; `words` and `regions` are SQL too."""
    models_and_recipe = r"regexp_replace(result.model_version, '\.[0-9a-f]{8}$', '')"
    return f"{models_and_recipe} || '.' || left({words}, 8) || '.' || left({regions}, 8)"


# In the order of the unique key, as everywhere, so that two who write the same rows wait for each other and do not
# deadlock. A row with another result is of a task whose picture or words have changed: it goes out anew, and who holds
# it is fenced off.
_OWE = text(f"""
    INSERT INTO prediction AS row (instance, project, task, model_version, item_id, result_id)
    SELECT owed.* FROM (
        SELECT project.instance, project.number AS project, task.task,
            {version_of("project.words", "project.regions")} AS model_version, item.id AS item_id, item.result_id
        FROM unnest(CAST(:ids AS bigint[])) AS ended(id)
        JOIN item ON item.id = ended.id AND item.state = 'done'
        JOIN task ON task.item_id = item.id
        JOIN project ON project.job_id = task.job_id
        JOIN result ON result.id = item.result_id
    ) AS owed
    LEFT JOIN LATERAL (
        -- One at most. The limit keeps the planner from comparing each with each.
        SELECT row.result_id, row.error_code FROM prediction AS row
        WHERE row.instance = owed.instance AND row.project = owed.project AND row.task = owed.task
            AND row.model_version = owed.model_version
        LIMIT 1
    ) AS known ON true
    WHERE known.result_id IS NULL OR known.result_id <> owed.result_id OR known.error_code = '{SUPERSEDED}'
    ORDER BY owed.instance, owed.project, owed.task, owed.model_version
    ON CONFLICT (instance, project, task, model_version) DO UPDATE
    SET item_id = excluded.item_id, result_id = excluded.result_id, state = 'pending', attempt = row.attempt + 1,
        failures = 0, worker = NULL, leased_until = NULL, not_before = now(), document = NULL, score = NULL,
        error_code = NULL, error_detail = NULL
    WHERE row.result_id <> excluded.result_id OR row.error_code = '{SUPERSEDED}'
""")  # noqa: S608 - made of its own constants


def owe(session: Session, item_ids: Collection[int]) -> None:
    """A pending prediction for every task of those of these items that are done. Called again, nothing more happens."""
    if item_ids:
        session.execute(_OWE, {"ids": sorted(item_ids)})
