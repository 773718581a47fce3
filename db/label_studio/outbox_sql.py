"""The statements of db.label_studio.outbox. Several rows are locked in the order of the unique key, as everywhere."""

from datetime import timedelta
from typing import Final

from sqlalchemy import text

from db import leases

SUPERSEDED: Final = "superseded"
"""Error code of predictions that were dropped when words or regions changed; enqueued again when these return."""
DUPLICATE_CHECK_AFTER: Final = (timedelta(minutes=10), timedelta(hours=1), timedelta(days=1))
"""From when a row is taken once more to the first duplicate check, and from each check to the next."""

OUTBOX = leases.LeasedTable(
    name="prediction",
    due="state = 'pending'",
    held="state = 'pending'",
    order="instance, ls_project_id, ls_task_id, model_version",
    # The time of an earlier attempt stands: it may be one that reached Label Studio.
    on_release="attempted_at = CASE WHEN attempt > 1 THEN attempted_at END",
    on_failure="state = CASE WHEN {again} THEN 'pending' ELSE 'failed' END, "
    "document = CASE WHEN {again} THEN document END, error_code = mine.code, error_detail = mine.detail",
)

_NO_ERROR = "error_code = NULL, error_detail = NULL"
# Somebody else may have sent it as well: a sender that was frozen past its lease and killed, a POST that is stored
# late.
_CHECK_DUPLICATES = f"""
    next_duplicate_check_at = CASE WHEN attempted_at IS NULL THEN next_duplicate_check_at
        ELSE now() + interval '{DUPLICATE_CHECK_AFTER[0].total_seconds():.0f} seconds' END,
    duplicate_checks = CASE WHEN attempted_at IS NULL THEN duplicate_checks ELSE 0 END
"""


def version_of(vocabulary_digest: str, region_digest: str) -> str:
    """car.model_version.label_studio_version of a result, in SQL; the digests are SQL too."""
    models_and_recipe = r"regexp_replace(result.model_version, '\.[0-9a-f]{8}$', '')"
    return f"{models_and_recipe} || '.' || left({vocabulary_digest}, 8) || '.' || left({region_digest}, 8)"


# A row with another result is of a task whose picture or words have changed: it goes out anew, and who holds it is
# fenced off.
ENQUEUE = text(f"""
    INSERT INTO prediction AS row (instance, ls_project_id, ls_task_id, model_version, item_id, result_id)
    SELECT new.* FROM (
        SELECT project.instance, project.ls_project_id, task.ls_task_id,
            {version_of("project.vocabulary_digest", "project.region_digest")} AS model_version,
            item.id AS item_id, item.result_id
        FROM unnest(CAST(:ids AS bigint[])) AS ended(id)
        JOIN item ON item.id = ended.id AND item.state = 'done'
        JOIN task ON task.item_id = item.id
        JOIN project ON project.job_id = task.job_id
        JOIN result ON result.id = item.result_id
    ) AS new
    LEFT JOIN LATERAL (
        -- One at most. The limit keeps the planner from comparing each with each.
        SELECT row.result_id, row.error_code FROM prediction AS row
        WHERE row.instance = new.instance AND row.ls_project_id = new.ls_project_id
            AND row.ls_task_id = new.ls_task_id AND row.model_version = new.model_version
        LIMIT 1
    ) AS known ON true
    WHERE known.result_id IS NULL OR known.result_id <> new.result_id OR known.error_code = '{SUPERSEDED}'
    ORDER BY new.instance, new.ls_project_id, new.ls_task_id, new.model_version
    ON CONFLICT (instance, ls_project_id, ls_task_id, model_version) DO UPDATE
    SET item_id = excluded.item_id, result_id = excluded.result_id, state = 'pending', attempt = row.attempt + 1,
        {leases.RESET}, document = NULL, score = NULL, {_NO_ERROR}
    WHERE row.result_id <> excluded.result_id OR row.error_code = '{SUPERSEDED}'
""")  # noqa: S608 - made of its own constants, as all below

# Two searches, each along an index of its own: what waits for Label Studio to ask is not to be waded through.
CHOOSE = text(f"""
    WITH unrendered AS (
        SELECT id, available_at FROM prediction WHERE {OUTBOX.is_available} AND document IS NULL
        ORDER BY available_at, id LIMIT :limit FOR UPDATE SKIP LOCKED
    ), to_send AS (
        SELECT id, available_at FROM prediction
        WHERE {OUTBOX.is_available} AND instance = CAST(:instance AS text)
        ORDER BY available_at, id LIMIT :limit FOR UPDATE SKIP LOCKED
    )
    SELECT id FROM (SELECT * FROM unrendered UNION SELECT * FROM to_send) AS due
    ORDER BY available_at, id LIMIT :limit
""")  # noqa: S608

# Of the present words and regions, and of the picture that the task has now.
LIVE = text("""
    SELECT prediction.id FROM prediction
    JOIN project ON project.instance = prediction.instance AND project.ls_project_id = prediction.ls_project_id
    JOIN task ON task.job_id = project.job_id AND task.ls_task_id = prediction.ls_task_id
    JOIN item ON item.id = task.item_id AND item.result_id = prediction.result_id
    WHERE prediction.id = ANY(CAST(:ids AS bigint[]))
        AND right(prediction.model_version, 17) = left(project.vocabulary_digest, 8) || '.'
            || left(project.region_digest, 8)
""")

# What may have reached Label Studio is kept in mind, so that it is looked for there before it is sent again.
_UNTRIED = "attempt = 0 AND ls_prediction_id IS NULL"
DROP = (
    text(f"DELETE FROM prediction WHERE id = ANY(CAST(:ids AS bigint[])) AND {_UNTRIED}"),  # noqa: S608
    text(f"""
        UPDATE prediction
        SET state = 'failed', error_code = '{SUPERSEDED}', document = NULL, {leases.LET_GO},
            error_detail = 'the project asks for something else by now'
        WHERE id = ANY(CAST(:ids AS bigint[])) AND NOT ({_UNTRIED})
    """),  # noqa: S608
)

CLAIM = leases.claim_statement(
    OUTBOX,
    "chosen AS (SELECT unnest(CAST(:ids AS bigint[])) AS id)",
    """prediction.id, prediction.attempt, prediction.instance, prediction.ls_project_id, prediction.ls_task_id,
        prediction.model_version, prediction.result_id, result.run_key, result.masks_key, prediction.document,
        project.label_config, project.extra_params, prediction.failure_count, prediction.ls_prediction_id""",
    tables={
        "result": "result.id = prediction.result_id",
        "project": "project.instance = prediction.instance AND project.ls_project_id = prediction.ls_project_id",
    },
    also=f"""
        attempted_at = CASE WHEN prediction.instance = CAST(:instance AS text) THEN now() ELSE attempted_at END,
        {_CHECK_DUPLICATES}
    """,
)

STORE_RENDERED = """
    document = mine.new_document, score = mine.new_score,
    worker = CASE WHEN CAST(:keep AS bool) THEN worker END,
    lease_expires_at = CASE WHEN CAST(:keep AS bool) THEN lease_expires_at END
"""
SENT = f"""
    state = 'sent', ls_prediction_id = :ls_prediction_id, sent_at = now(), document = NULL, failure_count = 0,
    {_NO_ERROR}, {leases.LET_GO}
"""
ORPHANED = f"state = 'orphaned', ls_prediction_id = NULL, document = NULL, {_NO_ERROR}, {leases.LET_GO}"

RETRY = text(f"""
    WITH unsent AS (
        SELECT id FROM prediction
        WHERE instance = :instance AND ls_project_id = :project AND {OUTBOX.is_free}
            AND (state = 'failed' AND error_code IS DISTINCT FROM '{SUPERSEDED}'
                OR state = 'pending' AND failure_count > 0)
        {OUTBOX.order_by} FOR UPDATE SKIP LOCKED
    )
    UPDATE prediction SET state = 'pending', document = NULL, failure_count = 0, available_at = now(), {_NO_ERROR}
    FROM unsent WHERE prediction.id = unsent.id RETURNING 1
""")  # noqa: S608

# Answers to /predict

_REQUESTED = """
    prediction.instance = :instance AND prediction.ls_project_id = :project
    AND prediction.ls_task_id = ANY(CAST(:tasks AS bigint[]))
    AND (prediction.attempted_at IS NULL OR prediction.attempted_at < now() - CAST(:just_now AS interval))
    AND EXISTS (
        SELECT 1 FROM task JOIN item ON item.id = task.item_id
        WHERE task.job_id = :job AND task.ls_task_id = prediction.ls_task_id AND item.result_id = prediction.result_id
    )
"""
_LONG_SENT = "(prediction.sent_at IS NULL OR prediction.sent_at < now() - CAST(:just_now AS interval))"
# Given as an answer, and by nobody else: whoever asks again did not store it.
_ANSWERED = "prediction.state = 'sent' AND prediction.ls_prediction_id IS NULL AND prediction.document IS NOT NULL"

REQUEUE_DELETED = text(f"""
    WITH deleted AS (
        SELECT prediction.id FROM prediction
        WHERE {_REQUESTED} AND {_LONG_SENT} AND prediction.model_version = :version
            AND prediction.state IN ('sent', 'orphaned')
        {OUTBOX.order_by} FOR UPDATE SKIP LOCKED
    )
    UPDATE prediction
    SET state = 'pending', ls_prediction_id = NULL, failure_count = 0, available_at = now(), {_NO_ERROR}
    FROM deleted WHERE prediction.id = deleted.id
""")  # noqa: S608

TAKE_FOR_RESPONSE = text(f"""
    WITH free AS MATERIALIZED (
        SELECT prediction.id, prediction.ls_task_id, prediction.document, prediction.state = 'sent' AS again
        FROM prediction
        WHERE {_REQUESTED} AND (
                {_ANSWERED}
                OR {_LONG_SENT} AND prediction.state = 'pending' AND prediction.document IS NOT NULL
                    AND {OUTBOX.is_free}
            )
            AND CASE WHEN CAST(:version AS text) IS NULL THEN right(prediction.model_version, 17) = :digests
                ELSE prediction.model_version = :version END
        {OUTBOX.order_by} FOR UPDATE SKIP LOCKED
    ), fitting AS (
        SELECT id, document, sum(octet_length(document)) OVER (ORDER BY again, ls_task_id) AS bytes FROM free
    )
    UPDATE prediction
    SET state = 'sent', sent_at = now(), attempt = attempt + 1, ls_prediction_id = NULL, {leases.LET_GO},
        {_CHECK_DUPLICATES}, {_NO_ERROR}
    FROM fitting WHERE prediction.id = fitting.id AND fitting.bytes <= :max_bytes
    RETURNING prediction.ls_task_id, fitting.document
""")  # noqa: S608

FORGET_DOCUMENTS = text(f"""
    UPDATE prediction SET document = NULL WHERE id IN (
        SELECT id FROM prediction WHERE {_ANSWERED} AND sent_at < now() - CAST(:kept AS interval)
        {OUTBOX.order_by} LIMIT 5000 FOR UPDATE SKIP LOCKED
    ) RETURNING 1
""")  # noqa: S608

# Late sends and duplicates

REOPEN = text(f"""
    UPDATE prediction SET attempt = attempt + 1, attempted_at = now(), {leases.LET_GO}
    WHERE id = :id AND state = 'pending' RETURNING 1
""")  # noqa: S608

_CHECK_DUE = "state = 'sent' AND instance = CAST(:instance AS text) AND next_duplicate_check_at <= now()"
CLAIM_CHECKS = text(f"""
    WITH due AS MATERIALIZED (
        SELECT id FROM prediction WHERE {_CHECK_DUE}
        ORDER BY next_duplicate_check_at, id LIMIT :limit FOR UPDATE SKIP LOCKED
    )
    UPDATE prediction SET duplicate_checks = duplicate_checks + 1,
        next_duplicate_check_at = now() + (CAST(:waits AS interval[]))[duplicate_checks + 1]
    FROM due WHERE prediction.id = due.id
    RETURNING prediction.id, ls_project_id, ls_task_id, model_version, ls_prediction_id
""")  # noqa: S608
CHECKS_WAITING = text(f"SELECT EXISTS (SELECT 1 FROM prediction WHERE {_CHECK_DUE})")  # noqa: S608
