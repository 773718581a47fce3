"""What Label Studio sends, read without trust."""

import json

import pytest

from api.errors import BodyInvalidError
from api.label_studio import payloads as bodies
from api.label_studio.payloads import ProjectKey


@pytest.mark.parametrize("sent", [b"", b"{", b"[1]", b'"text"', b"\xff\xfe", b"null", b"[" * 100_000])
def test_a_body_that_is_no_object_is_refused(sent):
    with pytest.raises(BodyInvalidError):
        bodies.read(sent)


def test_half_a_surrogate_pair_in_one_task_costs_the_others_nothing():
    assert bodies.read(rb'{"tasks": [{"id": 1, "data": {"x": "\ud800"}}, {"id": 2}]}')["tasks"][1] == {"id": 2}


@pytest.mark.parametrize(
    ("given", "stamp"),
    [("2.1795220368", ProjectKey(2, "2.1795220368")), ("17", ProjectKey(17, "")), (17, ProjectKey(17, ""))],
)
def test_a_project_is_named_by_its_id_and_its_birth(given, stamp):
    assert bodies.stamp_of(given) == stamp


@pytest.mark.parametrize("given", [None, "", "2.", "x.1", "-2", True, 2.5, {"id": 2}, "9" * 40, "2.1\n", "٢.1"])
def test_what_names_no_project_is_refused(given):
    with pytest.raises(BodyInvalidError, match="project"):
        bodies.stamp_of(given)


def test_a_webhooks_project_is_named_as_setup_names_it():
    project = {"id": 2, "created_at": "2026-11-21T00:19:28.102210Z"}
    assert bodies.stamp_of_project(project) == ProjectKey(2, "2.1795220368")
    for odd in (None, "", "yesterday", 7, "2026-11-21T00:19:28"):
        assert bodies.stamp_of_project({"id": 2, "created_at": odd}) == ProjectKey(2, "")


@pytest.mark.parametrize(("sent", "number"), [(7, 7), (0, None), (-1, None), (True, None), ("7", None), (2**63, None)])
def test_an_id_is_a_positive_number_that_a_row_can_hold(sent, number):
    assert bodies.task_id_of(sent) == number


@pytest.mark.parametrize("sent", [{"background": ["wall"]}, json.dumps({"background": ["wall"]})])
def test_extra_parameters_come_as_an_object_or_as_its_text(sent):
    assert bodies.extra_params_of({"extra_params": sent}) == {"background": ["wall"]}


@pytest.mark.parametrize("sent", [None, "", "  ", {}])
def test_no_extra_parameters_are_none(sent):
    assert bodies.extra_params_of({"extra_params": sent}) == {}


@pytest.mark.parametrize("sent", ["[1]", "{", [1], 7])
def test_other_extra_parameters_are_refused_with_an_example(sent):
    with pytest.raises(BodyInvalidError, match="must be a JSON object"):
        bodies.extra_params_of({"extra_params": sent})


def test_the_address_of_label_studio_is_believed_if_it_is_one():
    assert bodies.hostname_of({"hostname": "https://labels.example/ls/"}) == "https://labels.example/ls"
    for odd in (None, "", 7, "labels.example", "javascript:1", "http://a\nb", "http://" + "x" * 3000):
        assert bodies.hostname_of({"hostname": odd}) == ""
