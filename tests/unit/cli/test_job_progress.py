"""A job is watched until it ends, through an API that comes and goes."""

import io
from collections import deque
from collections.abc import Sequence

import pytest
from rich.console import Console

from car.errors import CarError
from cli.errors import ApiRefusedError, ApiUnreachableError
from cli.output import job_progress
from cli.output.job_progress import JobWatch, all_done, duration, steady, summary
from cli.service.api_types import Job


def job(status="running", *, total=10, reused=0, rate=0.0, eta=None, **counts) -> Job:
    return {
        "id": "j1", "kind": "bulk", "priority": "bulk", "name": None, "status": status, "source_text": "s3://pics/",
        "vocabulary": {"id": "v", "labels": ["cat"], "name": None, "version": None},
        "recipe": {"id": "r", "preset": "voc"},
        "counts": counts, "total": total, "reused": reused, "progress": 0.0, "rate": rate, "eta": eta, "error": None,
        "created_at": "2026-01-01T00:00:00+00:00", "finished_at": None,
    }  # fmt: skip


class Answers:
    """An API that gives these answers in order, and repeats the last."""

    def __init__(self, answers: Sequence[Job | Exception]) -> None:
        self.answers = list(answers)
        self.asked = 0

    def job(self, job_id: str) -> Job:
        self.asked += 1
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(job_progress, "POLL_SECONDS", 0.001)


def watch(answers, **settings):
    console = Console(file=io.StringIO(), width=200)
    watched = JobWatch(Answers(answers), console, **settings)
    return watched, console.file


@pytest.mark.usefixtures("quick")
def test_it_ends_with_the_job_and_prints_its_summary():
    watched, output = watch([job("listing", total=0), job(done=4), job("done", done=9, failed=1)])
    assert watched.until_end("j1")["counts"] == {"done": 9, "failed": 1}
    assert output.getvalue().splitlines()[-1] == "done · 10 of 10 · 9 done · 1 failed"


@pytest.mark.usefixtures("quick")
def test_an_api_that_restarts_is_waited_for_and_mentioned_once():
    away = ApiUnreachableError("the API does not answer")
    watched, output = watch([away, away, job(done=4), job("done", done=10)])
    assert watched.until_end("j1")["status"] == "done"
    assert output.getvalue().count("waiting: the API does not answer") == 1


@pytest.mark.usefixtures("quick")
def test_an_api_that_stays_away_is_an_error_after_a_while():
    watched, _ = watch([ApiUnreachableError("the API does not answer")], patience=0.05)
    with pytest.raises(ApiUnreachableError):
        watched.until_end("j1")


@pytest.mark.usefixtures("quick")
def test_a_refusal_is_not_asked_again():
    watched, _ = watch([ApiRefusedError("there is no job j1", status=404)])
    with pytest.raises(ApiRefusedError):
        watched.until_end("j1")
    assert watched.jobs.asked == 1


@pytest.mark.usefixtures("quick")
def test_a_job_that_does_not_end_in_time_is_given_up_where_there_is_a_limit():
    watched, _ = watch([job(done=4)], deadline=0.02)
    with pytest.raises(CarError, match="has not ended"):
        watched.until_end("j1")


def test_the_summary_has_rate_remaining_time_and_reused_images():
    output = summary(job(total=2000, reused=7, rate=3.25, eta=540, done=240, failed=5)).plain
    assert output == "running · 245 of 2,000 · 240 done · 5 failed · 7 reused · 3.2 images/s · 9 min left"
    assert summary(job("listing", total=40, done=3)).plain.startswith("listing · 3 of 40+")


@pytest.mark.parametrize(("seconds", "output"), [(4.4, "4 s"), (600, "10 min"), (5400, "1.5 h")])
def test_durations_are_in_the_unit_that_fits(seconds, output):
    assert duration(seconds) == output


def test_all_done_means_every_image_of_a_job_that_ended():
    assert all_done(job("done", done=10))
    assert not all_done(job("done", done=9, dead=1))
    assert not all_done(job("cancelled", total=0))


def test_the_time_left_follows_the_median_rate_and_not_a_single_one():
    job = {"rate": 10.0, "eta": 100.0, "status": "running"}
    rates = deque(maxlen=21)
    for _ in range(9):
        steady(job, rates)
    stalled = steady({"rate": 0.5, "eta": 2000.0, "status": "running"}, rates)
    assert (stalled["rate"], stalled["eta"]) == (10.0, 100.0)
    unknown = {"rate": 0.0, "eta": None, "status": "running"}
    assert steady(unknown, rates) == unknown
