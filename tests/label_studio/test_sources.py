"""Pictures come from wherever a task of Label Studio may name: each kind of address gives the prediction it would give
as an upload.
"""

from base64 import b64encode

import pytest

from tests.label_studio.labels import config
from tests.label_studio.scenes import drawn, iou, scenes
from tests.label_studio.user import eventually

pytestmark = pytest.mark.timeout(900)

SCENES = scenes(3)
SECONDS = 300


@pytest.fixture
def project(user, labeler):
    number = user.project(config("Brush"), title="sources")
    labeler.connect(number)
    return number


def check(user, project, tasks):
    """Each has one prediction, with masks on the objects of the scenes in this order."""
    found = eventually(lambda: user.predictions(project), lambda found: len(found) >= len(tasks), SECONDS)
    assert sorted(one["task"] for one in found) == sorted(tasks)
    by_task = {one["task"]: drawn(one["result"]) for one in found}
    best = [
        max(
            iou(by_task[task].get(word, picture.truth(word) & False), picture.truth(word))
            for word in picture.scene.words
        )
        for task, picture in zip(tasks, SCENES, strict=True)
    ]
    assert min(best) > 0.5


def test_uploads(user, project):
    check(user, project, user.upload(project, [(one.name, one.content) for one in SCENES]))


def test_the_web(user, project, web):
    for one in SCENES:
        web.pages[f"/{one.name}"] = one.content
    check(user, project, user.import_tasks(project, [f"{web.url}/{one.name}" for one in SCENES]))


def test_pictures_within_the_tasks(user, project):
    addresses = [f"data:image/png;base64,{b64encode(one.content).decode()}" for one in SCENES]
    check(user, project, user.import_tasks(project, addresses))


def test_a_bucket_to_which_label_studio_alone_has_the_keys(user, project, foreign_s3):
    for one in SCENES:
        foreign_s3.put(f"in/{one.name}", one.content)
    user.connect_bucket(project, foreign_s3.environment, foreign_s3.name, prefix="in/")
    by_address = {one["data"]["image"]: one["id"] for one in user.tasks(project)}
    assert all(address.startswith("s3://") for address in by_address)
    check(user, project, [by_address[f"s3://{foreign_s3.name}/in/{one.name}"] for one in SCENES])


def test_a_bucket_to_which_we_have_the_keys(user, project, own_bucket):
    addresses = [own_bucket.put(one.name, one.content) for one in SCENES]
    check(user, project, user.import_tasks(project, addresses))


def test_files_beside_label_studio(user, project, server):
    folder = server.files / f"local-{project}"
    folder.mkdir()
    for one in SCENES:
        (folder / one.name).write_bytes(one.content)
    user.connect_folder(project, folder)
    by_name = {one["data"]["image"].rpartition("/")[2]: one["id"] for one in user.tasks(project)}
    check(user, project, [by_name[one.name] for one in SCENES])


def test_a_picture_that_cannot_be_fetched_is_explained_and_gets_no_prediction(user, labeler, project, web):
    gone, inside = f"{web.url}/gone.png", "http://10.1.2.3/secret.png"
    tasks = user.import_tasks(project, [gone, inside])
    ended = eventually(
        lambda: labeler.tasks(project),
        lambda found: {one["state"] for one in found.values()} == {"failed"} and len(found) == len(tasks),
        SECONDS,
    )
    assert ended[tasks[0]]["error"]["code"] == "source_not_found"
    assert ended[tasks[1]]["error"]["code"] == "source_forbidden"
    user.retrieve(project)
    assert user.predictions(project) == []
