"""Results are looked up, reserved by one worker, and stored once."""

from datetime import timedelta

from db.results import store as result_store
from db.session import transaction
from tests.support.rows import LEASE, together


def count(rows, table):
    return rows.sql(f"SELECT count(*) FROM {table}")[0][0]  # noqa: S608


def test_a_stored_result_has_its_picture_masks_and_history_and_its_reservation_is_gone(rows):
    new = rows.new_result(labels=("cat", "dog"))
    assert rows.do(result_store.reserve, "w", [new.run_key], LEASE) == {new.run_key}
    ids = rows.do(result_store.store, "w", [new])
    assert rows.do(result_store.existing, [new.run_key, "other"]) == ids
    [row] = rows.sql("SELECT r.*, i.sha256, i.width FROM result r JOIN image i ON i.id = r.image_id")
    assert (row.id, row.steps, row.top_score, row.sha256, row.width) == (ids[new.run_key], 1, 0.75, new.sha256, 24)
    masks = rows.sql("SELECT position, label, score, x, y, width, height, area, source FROM mask ORDER BY position")
    assert [tuple(mask) for mask in masks] == [
        (1, "cat", 0.75, 0, 0, 12, 16, 192, "crf"),
        (2, "dog", 0.75, 0, 0, 12, 16, 192, "crf"),
    ]
    steps = rows.sql("SELECT pass_kind, step, position, label, kept, rival FROM query_step ORDER BY position")
    assert [tuple(step) for step in steps] == [("things", 1, 1, "cat", True, None), ("things", 1, 2, "dog", True, None)]
    assert count(rows, "reservation") == 0


def test_a_result_without_masks_is_a_result(rows):
    new = rows.new_result(labels=())
    rows.do(result_store.store, "w", [new])
    [row] = rows.sql("SELECT top_score FROM result")
    assert row.top_score is None


def test_nothing_to_store_stores_nothing(rows):
    assert rows.do(result_store.store, "w", []) == {}
    assert rows.do(result_store.existing, []) == {}
    assert rows.do(result_store.reserve, "w", [], LEASE) == set()


def test_a_result_that_is_there_stays_as_it_is(rows):
    new = rows.new_result()
    first = rows.do(result_store.store, "w1", [new, new])
    assert rows.do(result_store.store, "w2", [new]) == first
    [row] = rows.sql("SELECT worker FROM result")
    assert row.worker == "w1"
    assert (count(rows, "mask"), count(rows, "query_step")) == (1, 1)


def test_workers_that_store_the_same_pictures_at_once_make_one_row_each_and_do_not_deadlock(rows):
    new = [rows.new_result(f"picture {number}") for number in range(60)]

    def store(order):
        return [rows.do(result_store.store, f"w{order}", new[start : start + 20][::order]) for start in (0, 20, 40)]

    answers = together(*(lambda order=order: store(order) for order in (1, -1, 3, -3, 7)))
    ids = {}
    for answer in answers:
        for part in answer:
            for run_key, number in part.items():
                assert ids.setdefault(run_key, number) == number
    assert len(ids) == count(rows, "result") == count(rows, "image") == 60
    assert count(rows, "mask") == count(rows, "query_step") == 60


def test_one_of_many_workers_gets_to_compute_a_picture(rows):
    keys = [f"{number:064x}" for number in range(200)]
    shares = together(*(lambda name=f"w{n}": rows.do(result_store.reserve, name, keys, LEASE) for n in range(8)))
    assert sorted(key for share in shares for key in share) == keys


def test_a_reservation_is_kept_by_heartbeats_and_given_back(rows):
    assert rows.do(result_store.reserve, "w1", ["a", "b", "c"], LEASE) == {"a", "b", "c"}
    assert rows.do(result_store.reserve, "w1", ["a"], LEASE) == {"a"}  # its own
    assert rows.do(result_store.reserve, "w2", ["a"], LEASE) == set()
    rows.do(result_store.release, ["a", "b"], "w2")  # not its own
    assert rows.do(result_store.reserve, "w2", ["a", "b"], LEASE) == set()
    rows.do(result_store.release, ["a"], "w1")
    assert rows.do(result_store.reserve, "w2", ["a", "b"], LEASE) == {"a"}
    rows.do(result_store.release_all, "w1")
    assert rows.do(result_store.reserve, "w2", ["b", "c"], LEASE) == {"b", "c"}


def test_a_silent_workers_reservation_passes_to_the_next(rows):
    rows.do(result_store.reserve, "w1", ["a", "b", "c"], timedelta(seconds=-1))
    assert rows.do(result_store.reserve, "w2", ["a"], LEASE) == {"a"}
    rows.do(result_store.extend, "w1", LEASE)  # it wakes up: the others are still its own
    assert rows.do(result_store.reserve, "w2", ["b"], LEASE) == set()
    rows.sql("UPDATE reservation SET lease_expires_at = now() - interval '1 s' WHERE worker = 'w1'")
    assert rows.do(result_store.expire) == 2
    rows.do(result_store.extend, "w1", LEASE)
    assert rows.do(result_store.reserve, "w2", ["b", "c"], LEASE) == {"b", "c"}


def test_reserving_extending_releasing_and_expiring_never_wait_in_a_circle(rows):
    keys = [f"{number:02}" for number in range(40)]

    def life(worker, order):
        for _ in range(10):
            own = rows.do(result_store.reserve, worker, keys[::order], timedelta(milliseconds=5))
            rows.do(result_store.extend, worker, timedelta(milliseconds=5))
            rows.do(result_store.release, sorted(own)[::-order], worker)

    def expire():
        for _ in range(30):
            rows.do(result_store.expire)

    def heartbeat():
        for _ in range(30):
            rows.do(result_store.extend, "w1", timedelta(milliseconds=5))

    together(lambda: life("w1", 1), lambda: life("w2", -1), lambda: life("w3", 3), expire, heartbeat)


def test_whoever_asks_does_not_wait_for_the_one_who_is_about_to_store(rows):
    new = rows.new_result()
    rows.do(result_store.reserve, "w1", [new.run_key], LEASE)
    with transaction(rows.engine) as storing:
        result_store.store(storing, "w1", [new])
        assert rows.do(result_store.reserve, "w2", [new.run_key], LEASE) == set()
