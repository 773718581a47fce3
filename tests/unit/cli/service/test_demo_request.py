"""The demo's job request."""

from cli.model_selection import demo_folder
from cli.service.demo_run import demo_request
from cli.service.job_request import vocabulary_request


def test_the_demo_s_results_are_reused_by_a_job_created_as_the_readme_says():
    request = demo_request({"manifest": "s3://car/demo/list.txt"}, "demo")
    created = vocabulary_request(None, demo_folder() / "labels.txt", None, None)
    assert request == created | {"source": {"manifest": "s3://car/demo/list.txt"}, "name": "demo"}
    assert request.keys().isdisjoint({"preset", "set"})
