"""kill -9 between every two steps of the write-back: exactly one prediction a task in Label Studio, in the end."""

import json
import signal
import subprocess
import sys
import threading
from contextlib import contextmanager

import pytest

COMMITS = {"before a commit", "after a commit"}
READS = {"before the masks are read", "after the masks are read"}
POSTS = {"before POST /api/predictions/", "after POST /api/predictions/"}
GETS = {"before GET /api/predictions/", "after GET /api/predictions/"}


def start(outbox, environment, *command, **pipes):
    here = {"LABEL_STUDIO_URL": outbox.studio.url, "LABEL_STUDIO_API_KEY": outbox.studio.token, "S3_PREFIX": "car/"}
    return subprocess.Popen([sys.executable, *command], env=environment | here, **pipes)


def publisher(outbox, environment):
    """A process that publishes once, and ends."""
    return start(outbox, environment, "-c", "from tests.support.killed_publisher import publish; publish(0, 1)")


@contextmanager
def killers(outbox, environment):
    """`kill(n)`: another process publishes, and is killed at its n-th step; what it says of that."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    process = start(outbox, environment, "-m", "tests.support.killed_publisher", **pipes)

    def kill(step):
        process.stdin.write(f"{step}\n")
        process.stdin.flush()
        return process.stdout.readline().strip()

    with process:
        try:
            yield kill
        finally:
            process.stdin.close()


def killed_everywhere(outbox, environment, prepare, tasks=1):
    """The names of the steps at which it was killed, in their order."""
    steps = []
    with killers(outbox, environment) as kill:
        while True:
            outbox.enqueue(tasks)
            prepare()
            answer = kill(len(steps) + 1)
            outbox.due()
            outbox.publish(worker="after")
            outbox.agree()
            if answer == "done":
                return steps
            assert answer.startswith("killed "), answer
            steps.append(answer.removeprefix("killed "))


def uncertain(outbox, drop):
    """An attempt was made that nobody knows the outcome of."""
    outbox.studio.fail("POST", "/api/predictions/", drop=drop, times=1)
    outbox.publish(worker="before")
    assert outbox.states()["pending"] == 1
    outbox.due()


def test_killed_between_every_two_steps_of_a_first_attempt(outbox, engine_environment):
    steps = killed_everywhere(outbox, engine_environment, lambda: None)
    assert set(steps) == COMMITS | READS | POSTS
    assert steps.count("before a commit") == 5  # claim, document, record, a look for more, one for doubles


def test_the_server_has_it_and_its_answer_finds_nobody(outbox, engine_environment):
    """Killed while Label Studio answers: the row is stored there, and nobody here knows."""
    [task] = outbox.enqueue(1)
    process = publisher(outbox, engine_environment)
    outbox.studio.fail("POST", "/api/predictions/", then=process.kill, drop="after", times=1)
    assert process.wait(60) == -signal.SIGKILL
    assert len(outbox.studio.predictions(task)) == 1
    assert outbox.states() == {"pending": 1}
    outbox.due()
    outbox.publish()
    outbox.agree()
    assert len(outbox.studio.asked("POST", "/api/predictions/")) == 1


@pytest.mark.parametrize("when", ["first", "then"], ids=["before it is stored", "before it is answered"])
def test_a_process_frozen_past_its_lease_leaves_one_prediction(outbox, engine_environment, when):
    """SIGSTOP while its POST is on the way; another publisher sends the row; SIGCONT."""
    outbox.enqueue(1)
    process = publisher(outbox, engine_environment)
    frozen, other_is_done = threading.Event(), threading.Event()

    def freeze():
        process.send_signal(signal.SIGSTOP)
        frozen.set()
        other_is_done.wait(60)

    outbox.studio.fail("POST", "/api/predictions/", times=1, **{when: freeze})
    assert frozen.wait(60)
    outbox.due()
    assert outbox.publish(worker="other").counts == {"sent": 1}
    other_is_done.set()
    process.send_signal(signal.SIGCONT)
    assert process.wait(60) == 0
    outbox.agree()
    assert outbox.studio.asked("DELETE") == [] if when == "then" else len(outbox.studio.asked("DELETE")) == 1


@pytest.mark.slow
def test_killed_between_every_two_steps_of_several_rows(outbox, engine_environment):
    steps = killed_everywhere(outbox, engine_environment, lambda: None, tasks=3)
    assert steps.count("after POST /api/predictions/") == 3


@pytest.mark.slow
@pytest.mark.parametrize("drop", ["before", "after"])
def test_killed_between_every_two_steps_of_a_second_attempt(outbox, engine_environment, drop):
    steps = killed_everywhere(outbox, engine_environment, lambda: uncertain(outbox, drop))
    assert set(steps) == COMMITS | GETS | (POSTS if drop == "before" else set())


@pytest.mark.slow
def test_killed_between_every_two_steps_of_clearing_doubles(outbox, engine_environment):
    def doubled():
        uncertain(outbox, "after")
        newest = outbox.studio.predictions()[-1]
        text = json.dumps({"model_version": newest["model_version"], "result": []})
        with outbox.client() as client:
            client.predict(newest["task"], text)
            client.predict(newest["task"], text)

    steps = killed_everywhere(outbox, engine_environment, doubled)
    assert sum(name.startswith("after DELETE") for name in steps) == 2
