"""The outbox: whatever publishers do and whenever Label Studio asks, each prediction reaches it once."""

import random
from dataclasses import dataclass
from datetime import timedelta

import pytest

from db.label_studio import outbox
from db.label_studio.outbox import OutboxRow
from tests.support.label_studio_rows import INSTANCE
from tests.support.rows import LEASE, together

PUBLISHERS = ("p1", "p2")
TASKS = (1, 2, 3)


@dataclass(eq=False)
class Held:
    """A prediction in a publisher's hand, as the publisher knows it."""

    row: OutboxRow
    worker: str
    rendered: bool = False
    created: int | None = None
    """Label Studio's id, of what was posted and is not taken down yet."""
    silent: bool = False
    """Its lease has run out."""


class Outbox:
    """Two publishers, one who renders alone, and a Label Studio that asks, loses answers and deletes predictions."""

    def __init__(self, project, seed):
        self.project, self.random = project, random.Random(seed)
        self.held: list[Held] = []
        self.there: dict[int, int] = {}
        """Label Studio: predictions by id, the task of each."""
        self.numbers = 0
        self.chosen: list[int] = []
        self.lasted = 0
        """Seconds since it chose."""
        self.project.ask(*TASKS[:2])
        self.project.finish()

    def lacking(self):
        return [task for task in TASKS if task not in self.there.values()]

    def create(self, task):
        self.numbers += 1
        self.there[self.numbers] = task
        return self.numbers

    def pick(self):
        return self.random.choice(self.held) if self.held else None

    def segment(self):
        self.project.ask(self.random.choice(TASKS))
        self.project.finish()

    def claim(self):
        worker, limit = self.random.choice(PUBLISHERS), self.random.randint(1, 2)
        waits = self.project.do(outbox.waiting, INSTANCE)
        claimed = self.project.do(outbox.claim, worker, limit=limit, lease=LEASE, instance=INSTANCE)
        assert waits == bool(claimed)
        for entry in claimed:
            assert [held.worker for held in self.held if held.row.id == entry.id and not held.silent] == []
            self.held.append(Held(entry, worker, rendered=entry.document is not None))

    def render_alone(self):
        claimed = self.project.do(outbox.claim, "r", limit=9, lease=LEASE, instance=None)
        assert {entry.document for entry in claimed} <= {None}
        made = [(entry, f"document {entry.ls_task_id}", 0.5) for entry in claimed]
        assert self.project.do(outbox.store_rendered, "r", made, keep=False) == {entry.id for entry in claimed}

    def go_on(self):
        """Render, post, take down."""
        if held := self.pick():
            for _ in range(self.random.randint(1, 3)):
                if held in self.held:
                    self.step(held)

    def step(self, held):
        if not held.rendered:
            made = [(held.row, f"document {held.row.ls_task_id}", 0.5)]
            held.rendered = True
            if not self.project.do(outbox.store_rendered, held.worker, made, keep=True):
                assert held.silent
                self.held.remove(held)
        elif held.created is not None:
            self.take_down(held, held.created, created=True)
        elif not held.silent:  # a publisher whose lease has run out posts nothing more
            known = [made for made, task in self.there.items() if task == held.row.ls_task_id]
            if held.row.attempt > 1 and known:
                self.take_down(held, known[0], created=False)
            else:
                held.created = self.create(held.row.ls_task_id)

    def take_down(self, held, made, *, created):
        is_owned = self.project.do(outbox.mark_sent, held.worker, held.row, made)
        assert is_owned or held.silent
        if not is_owned and created:
            self.there.pop(made, None)
        self.held.remove(held)

    def give_up(self):
        """What was posted stays there unseen: the answer was lost, or the publisher died."""
        how = self.random.choice(["later", "hand_back", "die"])
        if held := self.pick():
            if how == "later":
                wait = timedelta(seconds=60)
                self.project.do(
                    outbox.reschedule, held.worker, held.row, code="label_studio_slow", detail="\0", at_least=wait
                )
            elif how == "hand_back" and held.created is None:
                self.project.do(outbox.release, held.worker, [held.row])
            self.held.remove(held)

    def leases_run_out(self):
        """Three times at most while a request of Label Studio lasts."""
        self.project.later(timedelta(seconds=31))
        self.lasted += 31
        for held in self.held:
            held.silent = True

    def time_passes(self):
        self.project.later()
        self.chosen = []
        for held in self.held:
            held.silent = True

    def label_studio_chooses(self):
        self.chosen, self.lasted = self.lacking(), 0

    def label_studio_asks(self):
        """What it chose may have come in between; it stores every answer all the same."""
        lost, answering = self.random.random() < 0.2, self.random.choice([0, 12, 10**6])
        if self.chosen and self.lasted < 100:
            answers = self.project.ask(*self.chosen, max_document_bytes=answering, missing=True)
            given = [entry.ls_task_id for entry in answers if entry.document is not None]
            assert {entry.document for entry in answers} <= {None, *(f"document {task}" for task in given)}
            assert sum(len(entry.document or "") for entry in answers) <= answering
            for task in [] if lost else given:
                self.create(task)
        self.chosen = []

    def a_person_deletes(self):
        if self.there:
            del self.there[self.random.choice(sorted(self.there))]

    def none_is_there_twice(self, done):
        unseen = {held.created for held in self.held if held.silent}
        tasks = [task for made, task in self.there.items() if made not in unseen]
        assert len(tasks) == len(set(tasks)), (done, self.there, self.held)

    def run(self, steps):
        weights = {
            self.segment: 2, self.claim: 6, self.render_alone: 1, self.go_on: 12, self.give_up: 3,
            self.leases_run_out: 2, self.time_passes: 2, self.label_studio_chooses: 3, self.label_studio_asks: 6,
            self.a_person_deletes: 3,
        }  # fmt: skip
        done = []
        for step in self.random.choices(list(weights), list(weights.values()), k=steps):
            step()
            done.append(step.__name__)
            self.none_is_there_twice(done[-15:])

    def settle(self):
        """However it went, a while later each is there once."""
        self.project.ask(*TASKS)
        self.project.finish()
        for held in list(self.held):
            if held.created is not None:
                self.take_down_at_last(held)
        for _ in range(2):
            self.time_passes()
            if lacking := self.lacking():
                self.project.ask(*lacking, missing=True)
            self.publish_all()
        assert sorted(self.there.values()) == list(TASKS)
        assert {row.state for row in self.project.predictions()} == {"sent"}

    def take_down_at_last(self, held):
        if not self.project.do(outbox.mark_sent, held.worker, held.row, held.created):
            self.there.pop(held.created, None)

    def publish_all(self):
        self.held = []
        while claimed := self.project.do(outbox.claim, "p9", limit=2, lease=LEASE, instance=INSTANCE):
            for entry in claimed:
                known = [made for made, task in self.there.items() if task == entry.ls_task_id]
                made = known[0] if entry.attempt > 1 and known else self.create(entry.ls_task_id)
                assert self.project.do(outbox.mark_sent, "p9", entry, made)


@pytest.mark.parametrize("seed", range(4))
def test_each_prediction_reaches_label_studio_once_whatever_happens(project, seed):
    outbox = Outbox(project, seed)
    outbox.run(400)
    outbox.settle()


def test_publishers_share_what_is_owed_and_no_two_have_the_same(project):
    project.ask(*range(1, 41))
    project.finish()

    def drain(worker):
        own = []
        while claimed := project.do(outbox.claim, worker, limit=3, lease=LEASE, instance=INSTANCE):
            made = [(entry, "{}", 0.1) for entry in claimed]
            assert len(project.do(outbox.store_rendered, worker, made, keep=True)) == len(claimed)
            assert project.do(outbox.extend, worker, claimed, LEASE) == {entry.id for entry in claimed}
            own += [
                entry.ls_task_id for entry in claimed if project.do(outbox.mark_sent, worker, entry, entry.ls_task_id)
            ]
        return own

    shares = together(*(lambda name=name: drain(name) for name in ("a", "b", "c")))
    assert sorted(task for share in shares for task in share) == list(range(1, 41))


def test_rendering_is_for_anybody_and_sending_for_who_may(project):
    project.ask(1, 2)
    project.finish()
    elsewhere = "http://elsewhere:8080"
    [entry, two] = project.do(outbox.claim, "p1", limit=9, lease=LEASE, instance=elsewhere)
    project.do(outbox.store_rendered, "p1", [(entry, '{"a": 1}', 0.5), (two, '{"b": 2}', 0.5)], keep=False)
    for nobody in (None, elsewhere):
        assert not project.do(outbox.waiting, nobody)
        assert project.do(outbox.claim, "p1", limit=9, lease=LEASE, instance=nobody) == []
    assert project.do(outbox.waiting, INSTANCE)
    claimed = project.do(outbox.claim, "p1", limit=9, lease=LEASE, instance=INSTANCE)
    assert [entry.document for entry in claimed] == ['{"a": 1}', '{"b": 2}']


def test_answers_are_as_many_as_fit_and_one_for_a_task_asked_twice(project):
    project.ask(1, 2, 3)
    project.finish()
    claimed = project.do(outbox.claim, "p1", limit=9, lease=LEASE, instance=None)
    project.do(outbox.store_rendered, "p1", [(entry, "ä" * 50, 0.5) for entry in claimed], keep=False)
    first = project.ask(3, 2, 1, 1, max_document_bytes=250, missing=True)
    assert [(entry.ls_task_id, entry.document is not None) for entry in first] == [
        (3, False),
        (2, True),
        (1, True),
        (1, False),
    ]
    second = together(*(lambda: project.ask(3, max_document_bytes=10**6, missing=True) for _ in range(4)))
    assert any(entry.document for answers in second for entry in answers)
    assert {row.state for row in project.predictions()} == {"sent"}


def test_an_answer_is_given_again_to_who_asks_again(project):
    """Whoever asks once more did not store it: a lost answer, a poll, a selection that overlaps the last one."""
    project.ask(1)
    project.finish()
    claimed = project.do(outbox.claim, "p1", limit=9, lease=LEASE, instance=None)
    project.do(outbox.store_rendered, "p1", [(entry, '{"result": []}', 0.5) for entry in claimed], keep=False)
    for _ in range(3):
        [answer] = project.ask(1, max_document_bytes=10**6, missing=True)
        assert answer.document == '{"result": []}'
        assert not project.do(outbox.waiting, INSTANCE)
    assert project.do(outbox.forget_documents) == 0
    project.later(outbox.KEPT)
    assert project.do(outbox.forget_documents) == 1
    [answer] = project.ask(1, max_document_bytes=10**6, missing=True)
    assert answer.document is None
    assert project.do(outbox.waiting, None)


def test_before_any_worker_told_its_weights_nothing_counts_as_deleted(project):
    project.ask(1)
    project.finish()
    [entry] = project.do(outbox.claim, "p1", limit=9, lease=LEASE, instance=INSTANCE)
    project.do(outbox.mark_sent, "p1", entry, 11)
    project.later()
    project.ask(1, weights=None, missing=True)
    assert [row.state for row in project.predictions()] == ["sent"]
    project.ask(1, missing=True)
    assert [(row.state, row.ls_prediction_id) for row in project.predictions()] == [("pending", None)]


def test_failed_ones_go_again_when_somebody_says_so(project):
    project.ask(1, 2, 3)
    project.finish()
    [entry, two, three] = project.do(outbox.claim, "p1", limit=9, lease=LEASE, instance=INSTANCE)
    assert project.do(outbox.fail, "p1", entry, code="prediction_invalid", detail="no such label")
    wait = timedelta(hours=1)
    assert project.do(outbox.reschedule, "p1", two, code="label_studio_unreachable", detail="away", at_least=wait)
    assert project.do(outbox.mark_orphaned, "p1", three)
    assert [row.state for row in project.predictions()] == ["failed", "pending", "orphaned"]
    project.ask(1, 2, 3, missing=False)
    assert not project.do(outbox.waiting, INSTANCE)
    assert project.do(outbox.retry, project.known.row) == 2
    again = project.do(outbox.claim, "p1", limit=9, lease=LEASE, instance=INSTANCE)
    assert [(entry.ls_task_id, entry.attempt, entry.failure_count) for entry in again] == [(1, 2, 0), (2, 2, 0)]


def test_what_a_publisher_holds_is_no_answer_however_long_it_takes(project):
    project.ask(1)
    project.finish()
    [held] = project.do(outbox.claim, "p1", limit=1, lease=LEASE, instance=INSTANCE)
    project.do(outbox.store_rendered, "p1", [(held, "{}", 0.5)], keep=True)
    project.later()
    assert project.do(outbox.extend, "p1", [held], LEASE) == {held.id}
    [answer] = project.ask(1, max_document_bytes=10**6, missing=True)
    assert answer.document is None
    project.later()
    [answer] = project.ask(1, max_document_bytes=10**6, missing=True)
    assert answer.document == "{}"
    assert not project.do(outbox.mark_sent, "p1", held, 7)


def test_what_is_handed_back_was_never_claimed(project):
    project.ask(1)
    project.finish()
    claimed = project.do(outbox.claim, "p1", limit=9, lease=LEASE, instance=INSTANCE)
    assert project.do(outbox.release, "p1", claimed) == {claimed[0].id}
    assert project.do(outbox.release, "p1", claimed) == set()
    [again] = project.do(outbox.claim, "p2", limit=9, lease=LEASE, instance=INSTANCE)
    assert again.attempt == 1
