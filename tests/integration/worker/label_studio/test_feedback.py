"""What annotators say is compared once with the prediction that they saw, through lost workers, changes and outages."""

import json

import numpy as np
import pytest

from car.label_studio.agreement import Outcome
from car.label_studio.prediction import build_regions
from car.rle import encode_brush, encode_coco
from car.stored_masks import StoredMask, StoredMasks
from db.errors import StoreUnreachableError
from db.label_studio import feedback
from db.objects import S3ObjectStore
from tests.support.rows import LEASE, together
from worker.label_studio.feedback import process_annotations
from worker.maintenance import run_maintenance

HALF = np.zeros((16, 24), bool)
HALF[:, :12] = True
FOUND = StoredMasks(24, 16, (StoredMask("cat", 0.75, encode_coco(HALF)), StoredMask("dog", 0.5, encode_coco(~HALF))))


@pytest.fixture
def store(bucket):
    return S3ObjectStore(bucket.client, bucket.name, "car/")


@pytest.fixture
def predicted(project, store):
    """A project of which tasks 1 and 2 have a prediction: a cat on the left, a dog on the right."""
    project.ask(1, 2)
    project.finish()
    keep_masks(project, store)
    project.sql("UPDATE prediction SET state = 'sent', sent_at = now() - interval '1 minute'")
    return project


def keep_masks(project, store, found=FOUND):
    document = {
        "image": {"width": found.width, "height": found.height},
        "masks": [{"label": one.label, "score": one.score, "rle": one.rle} for one in found.masks],
    }
    key = store.put("masks.json", json.dumps(document).encode(), "application/json")
    project.sql("UPDATE result SET masks_key = :key", key=key)


def regions(project):
    return json.loads(json.dumps(build_regions(project.known.config, FOUND, run_key="k").regions))


def brush(label, mask):
    value = {"format": "rle", "rle": encode_brush(mask), "brushlabels": [label]}
    return {"id": label, "type": "brushlabels", "original_width": 24, "original_height": 16, "value": value}


def note(project, task, number, result):
    project.do(feedback.record, project.known.row, task, number, result)


def compare(project, store, worker="io", **options):
    return process_annotations(project.engine, store, worker, preset="demo", **options)


def said(project, annotation=100):
    query = (
        "SELECT feedback.* FROM feedback JOIN annotation ON annotation.id = annotation_id "
        "WHERE annotation.ls_annotation_id = :annotation ORDER BY feedback.label"
    )
    return {row.label: row for row in project.sql(query, annotation=annotation)}


def states(project):
    return [row.state for row in project.sql("SELECT state FROM annotation ORDER BY id")]


def test_a_prediction_that_was_kept_is_accepted_to_the_pixel(predicted, store):
    note(predicted, 1, 100, regions(predicted))
    assert compare(predicted, store).compared == 1
    found = said(predicted)
    assert {label: (row.outcome, row.iou, row.score) for label, row in found.items()} == {
        "cat": ("accepted", 1.0, 0.75), "dog": ("accepted", 1.0, 0.5),
    }  # fmt: skip
    assert found["cat"].model_version == predicted.predictions()[0].model_version
    assert found["cat"].prompts == "cat"
    assert states(predicted) == ["done"]
    assert predicted.sql("SELECT result FROM annotation")[0].result == []


def test_each_label_is_kept_changed_taken_away_or_missed(predicted, store):
    quarter = HALF.copy()
    quarter[8:] = False
    note(predicted, 1, 100, [brush("cat", quarter), brush("bird", ~HALF)])
    compare(predicted, store)
    found = said(predicted)
    assert {label: row.outcome for label, row in found.items()} == {
        "cat": "changed", "dog": "rejected", "bird": "missed",
    }  # fmt: skip
    assert (found["cat"].iou, found["dog"].iou, found["bird"].prompts) == (0.5, None, "bird")


def test_an_empty_annotation_takes_everything_away(predicted, store):
    note(predicted, 1, 100, [])
    compare(predicted, store)
    assert {row.outcome for row in said(predicted).values()} == {"rejected"}


def test_a_changed_annotation_replaces_what_it_said(predicted, store):
    note(predicted, 1, 100, [])
    compare(predicted, store)
    note(predicted, 1, 100, regions(predicted))
    note(predicted, 1, 100, regions(predicted))
    assert states(predicted) == ["pending"]
    compare(predicted, store)
    assert {row.outcome for row in said(predicted).values()} == {"accepted"}
    assert len(predicted.sql("SELECT * FROM annotation")) == 1


def test_one_changed_while_it_is_compared_is_compared_again(predicted, store):
    note(predicted, 1, 100, [])
    [held] = predicted.do(feedback.claim, "slow", limit=4, lease=LEASE)
    note(predicted, 1, 100, regions(predicted))
    assert predicted.do(feedback.save_comparison, "slow", held, [], {}) is False
    assert compare(predicted, store).compared == 1
    assert {row.outcome for row in said(predicted).values()} == {"accepted"}


def test_a_deleted_annotation_goes_with_what_it_said(predicted, store):
    for number in (100, 101):
        note(predicted, 1, number, [])
    compare(predicted, store)
    assert predicted.do(feedback.forget, predicted.known.row, [100, 999]) == 1
    assert said(predicted, 100) == {}
    assert len(said(predicted, 101)) == 2


def test_what_was_sent_after_the_person_had_drawn_says_nothing(predicted, store):
    predicted.sql("UPDATE prediction SET sent_at = now() + interval '1 hour'")
    note(predicted, 1, 100, [])
    note(predicted, 77, 101, [])
    assert compare(predicted, store).compared == 2
    assert said(predicted) == {}
    assert states(predicted) == ["done", "done"]


def test_the_newest_prediction_is_the_one_that_was_seen(predicted, store):
    old = predicted.predictions()[0]
    predicted.sql(
        "INSERT INTO prediction (instance, ls_project_id, ls_task_id, model_version, item_id, result_id, "
        "state, sent_at) "
        "SELECT instance, ls_project_id, ls_task_id, 'older', item_id, result_id, 'sent', sent_at - interval '1 day' "
        "FROM prediction WHERE id = :id",
        id=old.id,
    )
    note(predicted, 1, 100, [])
    compare(predicted, store)
    assert said(predicted)["cat"].model_version == old.model_version


def test_a_lost_worker_costs_its_lease_and_an_annotation_that_kills_workers_ends(predicted, store):
    note(predicted, 1, 100, [])
    for attempt in range(1, feedback.MAX_ATTEMPTS + 1):
        [held] = predicted.do(feedback.claim, "dies", limit=4, lease=LEASE)
        assert held.attempt == attempt
        assert predicted.do(feedback.claim, "other", limit=4, lease=LEASE) == []
        assert predicted.do(feedback.waiting) is False
        predicted.sql("UPDATE annotation SET lease_expires_at = now() - interval '1 second'")
    assert compare(predicted, store).compared == 0
    [row] = predicted.sql("SELECT state, error_code FROM annotation")
    assert tuple(row) == ("failed", "lost_worker")
    assert predicted.do(feedback.waiting) is False


def test_several_workers_compare_each_annotation_once(predicted, store):
    for number in range(12):
        note(predicted, 1, number, [])
    done = together(*(lambda name=name: compare(predicted, store, name) for name in "abc"))
    assert sum(one.compared for one in done) == 12
    assert states(predicted) == ["done"] * 12


def test_an_outage_of_the_store_is_waited_for(predicted, store):
    class Away:
        def get(self, key):
            raise StoreUnreachableError("the store does not answer")

    note(predicted, 1, 100, [])
    assert compare(predicted, Away()).failed == 1
    [row] = predicted.sql("SELECT state, error_code, available_at > now() AS waits FROM annotation")
    assert tuple(row) == ("pending", "store_unreachable", True)
    assert compare(predicted, store).compared == 0
    predicted.sql("UPDATE annotation SET available_at = now()")
    assert predicted.do(feedback.waiting)
    assert compare(predicted, store).compared == 1


def test_a_drawing_that_cannot_be_read_fails_alone_with_a_reason(predicted, store):
    note(predicted, 1, 100, [brush("cat", HALF) | {"original_width": 7}])
    note(predicted, 2, 101, [])
    done = compare(predicted, store)
    assert (done.compared, done.failed) == (1, 1)
    row = predicted.sql("SELECT state, error_code, error_detail FROM annotation ORDER BY id")[0]
    assert (row.state, row.error_code) == ("failed", "annotation_invalid")
    assert "'cat'" in row.error_detail


def test_a_worker_that_is_told_to_stop_hands_back(predicted, store):
    note(predicted, 1, 100, [])
    done = compare(predicted, store, stop=lambda: True)
    assert (done.has_more, done.compared) == (True, 0)
    [row] = predicted.sql("SELECT state, attempt, worker FROM annotation")
    assert tuple(row) == ("pending", 0, None)


def test_the_report_counts_by_label_and_prompts(predicted, store):
    note(predicted, 1, 100, regions(predicted))
    note(predicted, 2, 101, [brush("dog", HALF), brush("bird", HALF)])
    compare(predicted, store)
    report = {one.label: one for one in predicted.do(feedback.report, predicted.known.row)}
    assert report["cat"].outcomes == {Outcome.ACCEPTED: 1, Outcome.REJECTED: 1}
    assert (report["cat"].acceptance, report["cat"].mean_iou) == (0.5, 1.0)
    assert (report["dog"].acceptance, report["dog"].mean_iou) == (0.5, 0.5)
    assert (report["bird"].acceptance, report["bird"].mean_iou) == (None, None)


def test_text_that_postgres_cannot_hold_is_kept_without_it(predicted, store):
    strange = {"type": "textarea", "value": {"text": ["a\0b", "\\u0000 as text"]}}
    note(predicted, 1, 100, [strange, "nonsense"])
    [row] = predicted.sql("SELECT result FROM annotation")
    assert row.result[0]["value"]["text"] == ["ab", "\\u0000 as text"]
    assert compare(predicted, store).compared == 1


def test_the_reaper_rings_for_annotations_that_wait(predicted, store):
    assert run_maintenance(predicted.engine).has_annotations is False
    note(predicted, 1, 100, [])
    assert run_maintenance(predicted.engine).has_annotations is True
    compare(predicted, store)
    assert run_maintenance(predicted.engine).has_annotations is False


def test_another_project_is_another_matter(predicted, store):
    other = predicted.note(ls_project_id=8)
    note(predicted, 1, 100, [])
    predicted.do(feedback.record, other.row, 1, 100, [])
    compare(predicted, store)
    assert predicted.do(feedback.report, other.row) == []
    assert predicted.do(feedback.forget, other.row, [100]) == 1
    assert len(said(predicted)) == 2
