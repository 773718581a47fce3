"""GET /results and what is under it, on the real engines."""

import json
from io import BytesIO
from urllib.parse import quote, urlsplit
from uuid import uuid4

import httpx
import numpy as np
import pytest
from PIL import Image
from sqlalchemy import text

from car.model_cards import ModelCard
from car.rle import decode_coco
from db import model_registry
from db.session import transaction


def ids(answer):
    assert answer.status_code == 200, answer.text
    return [one["id"] for one in answer.json()["items"]]


def picture(answer):
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "image/png"
    return Image.open(BytesIO(answer.content))


def test_results_come_newest_first_with_their_masks_and_a_place(client, api_rows):
    first = api_rows.result([("cat", 0.9), ("dog", 0.5)])
    second = api_rows.result([])
    answer = client.get("/api/v1/results")
    assert ids(answer) == [str(second.id), str(first.id)]
    one = answer.json()["items"][1]
    assert [mask["label"] for mask in one["masks"]] == ["cat", "dog"]
    assert one["masks"][0]["bbox"] == list(first.segmentation.masks[0].bbox)
    assert (one["uri"], one["steps"], one["image"]["width"]) == (first.uri, 2, 64)
    assert answer.json()["next"] is None


def test_each_filter_alone_and_all_together(client, api_rows):
    cat = api_rows.result([("cat", 0.9), ("dog", 0.3)], dropped=[("cow", 1)], model_version="car-1")
    dog = api_rows.result([("dog", 0.6)], dropped=[("cat", 2)], model_version="car-2")
    job = api_rows.job(["cat", "owl"])
    owl = api_rows.result([("owl", 0.4)], dropped=[("cat", 1)], job=job, sha256="f" * 64)

    def found(**filters):
        return ids(client.get("/api/v1/results", params=filters))

    def named(*results):
        return [str(one.id) for one in results]

    assert found(label="dog") == named(dog, cat)
    assert found(label="dog", min_score=0.5) == named(dog)
    assert found(min_score=0.5) == named(dog, cat)
    assert found(min_score=0.4) == named(owl, dog, cat)
    assert found(job=str(job.id)) == named(owl)
    assert found(image="f" * 64) == named(owl)
    assert found(model_version="car-2") == named(dog)
    assert found(dropped="cat") == named(owl, dog)
    assert found(dropped="cat", dropped_at=2) == named(dog)
    assert found(dropped_at=1) == named(owl, cat)
    assert found(vocabulary=str(job.vocabulary_id)) == named(owl)
    assert found(label="Dog") == found(label="do") == []
    whole = {"label": "owl", "min_score": 0.4, "job": str(job.id), "image": "f" * 64, "model_version": "car-1"}
    whole |= {"dropped": "cat", "dropped_at": 1, "vocabulary": str(job.vocabulary_id)}
    assert found(**whole) == named(owl)
    assert found(**whole | {"dropped_at": 2}) == []


def test_the_version_that_label_studio_shows_finds_the_results_behind_it(client, api_rows):
    digests = "car-0.1.0+0a1b2c3d.11111111.22222222"
    mine = api_rows.result([("cat", 0.9)], model_version=digests)
    api_rows.result([("cat", 0.9)], model_version=digests.replace("2", "3"))
    for version in (digests, f"{digests}.deadbeef"):
        assert ids(client.get("/api/v1/results", params={"model_version": version})) == [str(mine.id)]
    for version in (f"{digests}.deadbeef.deadbeef", f"{digests}.deadbee", digests.removesuffix(".22222222")):
        assert ids(client.get("/api/v1/results", params={"model_version": version})) == []


def test_a_job_shows_each_of_its_pictures_in_the_reverse_order_of_listing(client, api_rows):
    job = api_rows.job()
    one = api_rows.result(job=job, uris=["s3://a/1.png", "s3://a/2.png", "s3://b/1.png"])
    two = api_rows.result(job=job, uris=["s3://a/3.png"])
    answer = client.get("/api/v1/results", params={"job": str(job.id)}).json()["items"]
    assert [entry["uri"] for entry in answer] == ["s3://a/3.png", "s3://b/1.png", "s3://a/2.png", "s3://a/1.png"]
    assert {entry["id"] for entry in answer[1:]} == {str(one.id)}
    assert [entry["reused"] for entry in answer] == [False, True, True, False]
    assert ids(client.get("/api/v1/results")) == [str(two.id), str(one.id)]
    places = client.get(f"/api/v1/results/{one.id}").json()["uris"]
    assert sorted(place["uri"] for place in places) == ["s3://a/1.png", "s3://a/2.png", "s3://b/1.png"]


@pytest.mark.parametrize("of_job", [False, True])
def test_pages_have_no_gap_and_no_double_while_rows_are_added(client, api_rows, of_job):
    job = api_rows.job()
    before = [str(api_rows.result(job=job).id) for _ in range(7)]
    filters = {"limit": 3} | ({"job": str(job.id)} if of_job else {"label": "cat"})
    seen, cursor = [], None
    while True:
        answer = client.get("/api/v1/results", params=filters | ({"cursor": cursor} if cursor else {})).json()
        seen += [one["id"] for one in answer["items"]]
        cursor = answer["next"]
        if cursor is None:
            break
        api_rows.result(job=job)
    assert seen == before[::-1]


def test_a_cursor_of_another_filter_or_of_nobody_is_refused(client, api_rows):
    for _ in range(3):
        api_rows.result()
    cursor = client.get("/api/v1/results", params={"limit": 1}).json()["next"]
    for params in ({"cursor": cursor, "label": "cat"}, {"cursor": "x"}, {"cursor": cursor, "job": str(uuid4())}):
        answer = client.get("/api/v1/results", params=params)
        assert (answer.status_code, answer.json()["code"]) == (422, "cursor_invalid")


BAD = (
    {"min_score": "nan"},
    {"min_score": 2},
    {"limit": 501},
    {"limit": 0},
    {"job": "1"},
    {"image": "x"},
    {"dropped_at": 0},
    {"dropped_at": 10**9},
    {"lable": "cat"},
    {"label": "a\0b"},
    {"dropped": "a\0b"},
    {"model_version": "a\0b"},
    {"vocabulary": "a\0b"},
    {"cursor": "\0"},
)


def test_a_filter_that_cannot_be_is_refused_by_name(client):
    for params in BAD:
        answer = client.get("/api/v1/results", params=params)
        assert (answer.status_code, answer.json()["code"]) == (422, "request_invalid"), answer.text
        assert next(iter(params)) in answer.json()["errors"][0]["field"]


def test_the_detail_holds_what_car_segment_writes(client, api_rows):
    written = api_rows.result([("cat", 0.123456789012345), ("dog", 0.5)], dropped=[("cow", 1)])
    answer = client.get(f"/api/v1/results/{written.id}").json()
    document = json.loads(json.dumps(written.segmentation.to_json()))
    assert {name: answer[name] for name in document} == document
    assert {"image", "model_version", "recipe"} <= set(answer)
    assert (answer["step_count"], answer["run_key"]) == (2, written.run_key)
    assert [label["name"] for label in answer["vocabulary"]["labels"]] == ["cat", "dog", "cow"]
    history = client.get(f"/api/v1/results/{written.id}/history").json()
    assert history == {"result": str(written.id), "stop_reason": "unchanged", "steps": document["steps"]}


def test_results_name_the_weights_that_ran_and_overlays_say_what_they_do_not_know(client, api_rows, database):
    written = api_rows.result([("cat", 0.9)])
    path = f"/api/v1/results/{written.id}"
    plain = picture(client.get(f"{path}/overlay.png"))
    unnamed = client.get(path).json()
    assert unnamed["models"] == {role: digest[:8] for role, digest in unnamed["weights"].items()}
    with transaction(database) as session:
        cards = {role: ModelCard("shapes", ("red circle",), "two words") for role in unnamed["weights"]}
        model_registry.register(session, "*", "*", unnamed["weights"], cards=cards)
    named = client.get(path).json()
    assert set(named["models"].values()) == {"shapes"}
    assert client.get("/api/v1/results").json()["items"][0]["models"] == named["models"]
    assert not [key for key in named["recipe"] if key.endswith("_model")]
    assert picture(client.get(f"{path}/overlay.png")).tobytes() != plain.tobytes()


def test_a_read_that_finds_objects_gone_marks_the_result(client, api_rows, database):
    written, whole = api_rows.result([("cat", 0.9)]), api_rows.result([("cat", 0.8)])
    path = f"/api/v1/results/{written.id}"

    def marked():
        with transaction(database) as session:
            return list(session.scalars(text("SELECT id FROM result WHERE objects_lost_at IS NOT NULL")))

    assert client.get(f"/api/v1/results/{whole.id}/masks/cat.png").status_code == 200
    assert marked() == []
    api_rows.delete_objects(written.id)
    for route in ("masks/cat.png", "masks/cat.rle", "overlay.png", "history.png", "labelmap.png", ""):
        answer = client.get(f"{path}/{route}".rstrip("/"))
        assert (answer.status_code, answer.json()["code"]) == (404, "not_found")
        assert "retry its job" in answer.json()["detail"]
    assert marked() == [written.id]


def test_presigned_links_work_without_a_key(client, api_rows):
    written = api_rows.result()
    links = client.get(f"/api/v1/results/{written.id}").json()["links"]
    document = httpx.get(links["masks"], trust_env=False).json()
    assert document["run_key"] == written.run_key
    assert document["masks"] == json.loads(json.dumps(written.segmentation.to_json()["masks"]))
    assert httpx.get(links["labelmap"], trust_env=False).content[:4] == b"\x89PNG"
    assert httpx.get(urlsplit(links["masks"])._replace(query="").geturl(), trust_env=False).status_code == 403
    assert client.get(links["overlay"]).status_code == client.get(links["history"]).status_code == 200


LABELS = ("cat", "a/b", "café", "..", "../..", 'say "hi"', "a?b#c", "100 % wool", "x.png", "x.rle", "猫", "a\\b", "a b")


def test_a_mask_is_served_whatever_its_label(client, api_rows):
    written = api_rows.result([(label, 0.9) for label in LABELS], size=(130, 20))
    for mask in written.segmentation.masks:
        place = f"/api/v1/results/{written.id}/masks/{quote(mask.label, safe='')}"
        answer = client.get(f"{place}.png")
        shown = np.asarray(picture(answer))
        assert shown.dtype == np.uint8
        assert set(np.unique(shown)) == {0, 255}
        assert (shown == 255).tolist() == decode_coco(mask.rle).tolist()
        assert answer.headers["content-disposition"].isascii()
        assert answer.headers["content-security-policy"].endswith("sandbox")
        assert client.get(f"{place}.rle").json() == mask.rle


def test_a_mask_that_is_not_there_is_not_found_and_the_others_are_named(client, api_rows):
    written = api_rows.result([("cat", 0.9)])
    answer = client.get(f"/api/v1/results/{written.id}/masks/dog.png")
    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")
    assert "'cat'" in answer.json()["detail"]


def test_the_label_map_holds_the_number_of_each_mask(client, api_rows):
    written = api_rows.result([("cat", 0.9), ("dog", 0.8)])
    shown = picture(client.get(f"/api/v1/results/{written.id}/labelmap.png"))
    assert shown.mode == "P"
    labels = np.asarray(shown)
    for number, mask in enumerate(written.segmentation.masks, start=1):
        assert (labels == number).tolist() == decode_coco(mask.rle).tolist()


def test_overlay_and_history_are_drawn_for_every_size(client, api_rows):
    for size in [(64, 48), (2500, 40), (40, 2500), (3000, 2000), (1, 1)]:
        written = api_rows.result([("cat", 0.9)] if size[0] > 1 else [], dropped=[("dog", 1)], size=size)
        assert picture(client.get(f"/api/v1/results/{written.id}/overlay.png")).width > 100
        assert picture(client.get(f"/api/v1/results/{written.id}/history.png")).width > 100


def test_without_a_preview_the_overlay_is_drawn_on_gray_and_says_so(client, api_rows):
    written = api_rows.result(preview=False, size=(2000, 1000))
    answer = client.get(f"/api/v1/results/{written.id}/overlay.png")
    assert answer.headers["x-car-picture"] == "none"
    assert picture(answer).width >= 1024
    other = client.get(f"/api/v1/results/{api_rows.result().id}/overlay.png")
    assert "x-car-picture" not in other.headers


def test_a_mask_thinner_than_the_previews_pixels_is_still_shown(client, api_rows):
    written = api_rows.result([(f"w{n}", 0.5) for n in range(1000)], size=(3000, 10))
    assert picture(client.get(f"/api/v1/results/{written.id}/overlay.png")).width > 100


def test_a_result_whose_objects_were_deleted_is_not_found_in_words(client, api_rows, bucket):
    written = api_rows.result()
    for key in bucket.keys():  # noqa: SIM118 - a bucket is no dict
        bucket.client.delete_object(Bucket=bucket.name, Key=key)
    for path in ("", "/overlay.png", "/labelmap.png", "/masks/cat.png"):
        answer = client.get(f"/api/v1/results/{written.id}{path}")
        assert (answer.status_code, answer.json()["code"]) == (404, "not_found")
    assert client.get(f"/api/v1/results/{written.id}/history").status_code == 200


def test_an_unknown_result_is_not_found(client):
    for path in ("", "/history", "/overlay.png", "/labelmap.png", "/masks/cat.png", "/masks/cat.rle"):
        answer = client.get(f"/api/v1/results/{uuid4()}{path}")
        assert (answer.status_code, answer.json()["code"]) == (404, "not_found")
