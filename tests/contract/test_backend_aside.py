"""The process for large bodies: it answers what threads would, keeps small requests free of it, and may die."""

import asyncio
import json
import os
import re
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from api.app import create_app
from api.label_studio.aside import WORTH_IT
from tests.support.recorded import BASIC, recorded, tasks_of

MANY = 300


def body(count=MANY, **changes):
    tasks = tasks_of([f"s3://bucket/{number}.jpg" for number in range(count)])
    sent = json.dumps(recorded("predict", tasks=tasks) | changes).encode()
    assert len(sent) >= WORTH_IT
    return sent


def ask(face, sent):
    answer = face.post("/predict", content=sent)
    assert answer.status_code == 200, answer.text
    return answer.json()["results"]


def failed(face):
    return float(re.search(r'car_predict_slots_total{answer="failed"} (\S+)', face.get("/metrics").text)[1])


def until(condition, seconds=30.0):
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end
        time.sleep(0.05)
    return found


@pytest.fixture
def aside(face, engine_environment, monkeypatch):
    """Of `face`, ready."""
    for name, value in engine_environment.items():
        monkeypatch.setenv(name, value)
    aside = face.app.state.face.aside
    aside.start()
    until(lambda: aside.pid)
    return aside


def is_gone(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def stopped(pid):
    os.kill(pid, signal.SIGSTOP)
    until(lambda: Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T")


def test_it_answers_and_counts_as_threads_do(face_settings, ready, aside, workers):
    assert ask(ready, body()) == [[]] * MANY
    assert 'car_predict_slots_total{answer="queued"} 300.0' in ready.get("/metrics").text
    workers.label(result=[{"type": "brushlabels", "value": {"rle": [7] * 2_000}}])  # some pieces
    known = ask(ready, body())
    assert all(slot["result"] for slot in known)
    assert 'car_predict_slots_total{answer="known"} 300.0' in ready.get("/metrics").text
    assert aside.pid
    with TestClient(create_app(face_settings)) as threads:
        threads.auth = BASIC
        assert threads.app.state.face.aside.pid is None
        assert ask(threads, body()) == known


def test_small_requests_do_not_pass_it_and_large_ones_do(ready, aside):
    stopped(aside.pid)
    with ThreadPoolExecutor(1) as thread:
        large = thread.submit(ask, ready, body())
        for _ in range(5):
            assert ready.get("/health").status_code == 200
            assert ready.post("/setup", json=recorded("setup")).status_code == 200
            assert ask(ready, json.dumps(recorded("predict")).encode()) == [[], []]
        assert not large.done()
        os.kill(aside.pid, signal.SIGCONT)
        assert large.result(30) == [[]] * MANY


def test_where_it_dies_with_tasks_in_hand_they_are_answered_all_the_same_and_another_is_started(
    ready, aside, monkeypatch
):
    monkeypatch.setattr("api.label_studio.aside._AGAIN_SECONDS", 0.0)
    first = aside.pid
    stopped(first)
    with ThreadPoolExecutor(1) as thread:
        large = thread.submit(ask, ready, body())
        time.sleep(0.2)
        os.kill(first, signal.SIGKILL)
        assert large.result(30) == [[]] * MANY
    assert until(lambda: aside.pid) != first
    assert ask(ready, body()) == [[]] * MANY


def test_one_that_hangs_is_ended_and_its_tasks_are_answered_all_the_same(ready, aside, monkeypatch):
    monkeypatch.setattr("api.label_studio.aside._HANGS_SECONDS", 1.0)
    monkeypatch.setattr("api.label_studio.aside._AGAIN_SECONDS", 0.0)
    first = aside.pid
    stopped(first)
    assert ask(ready, body()) == [[]] * MANY
    until(lambda: is_gone(first))
    assert until(lambda: aside.pid) != first


def test_what_it_cannot_answer_is_answered_as_ever(ready, aside, workers):
    assert aside.pid
    context = recorded("predict_smart_tool")["params"]
    assert ask(ready, body(params=context)) == [[]] * MANY  # waits for nobody, where no worker lives
    assert ready.post("/predict", content=body()[:-1]).status_code == 422
    assert ready.post("/predict", content=body(tasks={"x": "y" * WORTH_IT})).status_code == 422
    assert ready.post("/predict", content=body()[:-9] + b"\xff\xfe" + body()[-9:]).status_code == 422
    assert ask(ready, body().replace(b'"s3://bucket/7.jpg"', rb'"s3://bucket/\ud800.jpg"')) == [[]] * MANY
    before = failed(ready)
    assert ask(ready, body(project="none of Label Studio's")) == [[]] * MANY
    assert failed(ready) == before + MANY
    assert workers.sql("SELECT count(*) FROM item WHERE state = 'queued'")[0].count >= MANY - 1


def test_a_request_that_is_given_up_disturbs_no_other(ready, aside):
    assert ready
    stopped(aside.pid)

    async def given_up_and_another():
        first = asyncio.ensure_future(aside.predict(body()))
        await asyncio.sleep(0.2)
        first.cancel()
        os.kill(aside.pid, signal.SIGCONT)
        return await asyncio.gather(*(aside.predict(body()) for _ in range(4)))

    for answered in asyncio.run(given_up_and_another()):
        assert json.loads(b"".join(answered.parts)) == {"results": [[]] * MANY}
        assert answered.counts == {"queued": MANY}


def test_the_real_process_has_one_that_ends_with_it(served):
    _, process = served
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    [child] = until(lambda: children.read_text().split())
    assert b"api.label_studio.bulk" in Path(f"/proc/{child}/cmdline").read_bytes()
    process.kill()
    until(lambda: is_gone(int(child)))
