"""Fields of Label Studio's bodies, valid and not."""

import gc
import json
import sys
import threading
import time
from itertools import pairwise

import pytest
from pydantic_core import from_json

from api.errors import RequestInvalidError
from api.label_studio import payloads
from api.label_studio.payloads import ProjectKey
from car.label_studio.task_requests import task_id_of
from tests.support.recorded import recorded

DEEP = b"[" * 100_000


@pytest.mark.parametrize(
    "sent",
    [
        *(b"", b"{", b"[1]", b'"text"', b"\xff\xfe", b"null", DEEP),
        *(b'{"tasks": [%s]}' % task for task in (b"{", b'"\xff\xfe"', DEEP)),
    ],
)
def test_a_body_that_is_no_object_is_refused(sent):
    with pytest.raises(RequestInvalidError):
        payloads.read(sent)


def median_pause(parse, body):
    """The longest time for which another thread did not run while `body` was parsed, as a share of the parsing time."""
    shares = []
    for _ in range(7):
        ticks, over = [], threading.Event()

        def tick(ticks=ticks, over=over):
            while not over.is_set():
                ticks.append(time.perf_counter())
                time.sleep(0)

        thread = threading.Thread(target=tick)
        thread.start()
        while not ticks:
            time.sleep(0)
        begun = time.perf_counter()
        parse(body)
        ended = time.perf_counter()
        over.set()
        thread.join()
        pauses = [after - before for before, after in pairwise([*ticks, time.perf_counter()]) if before < ended]
        shares.append(max(pauses) / (ended - begun))
    return sorted(shares)[3]


def test_other_threads_run_while_a_large_body_is_parsed():
    body = json.dumps(recorded("predict", tasks=recorded("predict")["tasks"] * 10_000)).encode()
    collecting, interval = gc.isenabled(), sys.getswitchinterval()
    gc.disable()
    sys.setswitchinterval(0.0005)
    try:
        assert median_pause(from_json, body) > 0.7  # parsed at once
        assert median_pause(payloads.read, body) < 0.5
    finally:
        sys.setswitchinterval(interval)
        if collecting:
            gc.enable()


def test_a_body_is_read_as_json_reads_it():
    for name in ("predict", "predict_smart_tool", "setup", "webhook_tasks_created"):
        assert payloads.read(json.dumps(recorded(name)).encode()) == recorded(name)
    odd = {"tasks": {"x": 1}, "id": 2**70, "nothing": None}
    assert payloads.read(json.dumps(odd).encode()) == odd
    assert payloads.read(b'{"tasks": null}') == {"tasks": None}


def test_half_a_surrogate_pair_in_one_task_costs_the_others_nothing():
    assert payloads.read(rb'{"tasks": [{"id": 1, "data": {"x": "\ud800"}}, {"id": 2}]}')["tasks"][1] == {"id": 2}


@pytest.mark.parametrize(
    ("sent", "key"),
    [("2.1795220368", ProjectKey(2, "2.1795220368")), ("17", ProjectKey(17, "")), (17, ProjectKey(17, ""))],
)
def test_a_project_is_named_by_its_id_and_its_time_of_creation(sent, key):
    assert payloads.parse_project_key(sent) == key


@pytest.mark.parametrize("sent", [None, "", "2.", "x.1", "-2", True, 2.5, {"id": 2}, "9" * 40, "2.1\n", "٢.1"])
def test_what_names_no_project_is_refused(sent):
    with pytest.raises(RequestInvalidError, match="project"):
        payloads.parse_project_key(sent)


def test_a_webhooks_project_is_named_as_setup_names_it():
    project = {"id": 2, "created_at": "2026-11-21T00:19:28.102210Z"}
    assert payloads.webhook_project_key(project) == ProjectKey(2, "2.1795220368")
    for odd in (None, "", "yesterday", 7, "2026-11-21T00:19:28"):
        assert payloads.webhook_project_key({"id": 2, "created_at": odd}) == ProjectKey(2, "")


@pytest.mark.parametrize(("sent", "number"), [(7, 7), (0, None), (-1, None), (True, None), ("7", None), (2**63, None)])
def test_an_id_is_a_positive_number_that_a_row_can_hold(sent, number):
    assert task_id_of(sent) == number


@pytest.mark.parametrize("sent", [{"background": ["wall"]}, json.dumps({"background": ["wall"]})])
def test_extra_parameters_come_as_an_object_or_as_its_text(sent):
    assert payloads.parse_extra_params({"extra_params": sent}) == {"background": ["wall"]}


@pytest.mark.parametrize("sent", [None, "", "  ", {}])
def test_no_extra_parameters_are_none(sent):
    assert payloads.parse_extra_params({"extra_params": sent}) == {}


@pytest.mark.parametrize("sent", ["[1]", "{", [1], 7])
def test_other_extra_parameters_are_refused_with_an_example(sent):
    with pytest.raises(RequestInvalidError, match="must be a JSON object"):
        payloads.parse_extra_params({"extra_params": sent})


def test_the_address_of_label_studio_is_believed_if_it_is_one():
    assert payloads.parse_hostname({"hostname": "https://labels.example/ls/"}) == "https://labels.example/ls"
    for odd in (None, "", 7, "labels.example", "javascript:1", "http://a\nb", "http://" + "x" * 3000):
        assert payloads.parse_hostname({"hostname": odd}) == ""
