"""Jobs, vocabularies, recipes and keys through the API, on the real engines."""

from uuid import uuid4

import redis

from car.bulk_source import MAX_GIVEN
from car.model_cards import ModelCard
from db import model_registry
from db.queue import items, listings
from db.session import transaction
from tests.support.api_client import LEASE, bearer

JOBS = "/api/v1/jobs"


def order(bucket, **changes):
    return {"source": f"s3://{bucket.name}/in/", "labels": ["cat", "dog"]} | changes


def refused(answer, code):
    assert answer.status_code == 422, answer.text
    body = answer.json()
    assert answer.headers["content-type"] == "application/problem+json"
    assert (body["status"], body["code"], body["type"]) == (422, code, "about:blank"), body
    return body["detail"]


def test_a_job_is_taken_committed_and_rung_for(client, bucket, broker_url):
    bucket.put("in/a.png", b"x")
    answer = client.post(JOBS, json=order(bucket, set={"theta": 0.5, "visual_prompts": ["blur"]}, name="mine"))
    assert answer.status_code == 202, answer.text
    job = answer.json()
    assert answer.headers["location"] == f"{JOBS}/{job['id']}"
    assert (job["status"], job["kind"], job["priority"], job["name"], job["total"]) == (
        "listing",
        "bulk",
        "bulk",
        "mine",
        0,
    )
    assert job["source_text"] == f"s3://{bucket.name}/in/"
    assert job["vocabulary"]["labels"] == ["cat", "dog"]
    job.pop("warnings")
    assert client.get(answer.headers["location"]).json() == job
    assert client.get(JOBS).json() == {"items": [job], "next": None}
    recipe = client.get(f"/api/v1/recipes/{job['recipe']['id']}").json()
    assert (recipe["recipe"]["theta"], recipe["recipe"]["visual_prompts"]) == (0.5, ["blur"])
    with redis.Redis.from_url(broker_url) as bell:
        assert bell.llen("io") == 1


def test_a_job_is_followed_to_its_end_retried_rescanned_and_cancelled(client, api_rows, database):
    job = api_rows.job(uris=[f"s3://a/{n}.png" for n in range(5)])
    with transaction(database) as session:
        mine = items.claim(session, "w", limit=2, lease=LEASE)
        items.fail(session, "w", [items.FailedItem(mine[0], "image_corrupt", "broken", retryable=False)])
    place = f"{JOBS}/{job.id}"
    shown = client.get(place).json()
    assert shown["status"] == "running"
    counts = {"queued": 3, "running": 1, "done": 0, "failed": 1, "dead": 0, "cancelled": 0}
    assert (shown["counts"], shown["total"], shown["progress"]) == (counts, 5, 0.2)
    failed = client.get(f"{place}/items", params={"state": "failed"}).json()["items"]
    assert [one["error"] for one in failed] == [{"code": "image_corrupt", "detail": "broken"}]
    pages = client.get(f"{place}/items", params={"limit": 3}).json()
    rest = client.get(f"{place}/items", params={"limit": 3, "cursor": pages["next"]}).json()
    assert [one["uri"][-5] for one in pages["items"] + rest["items"]] == list("01234")
    again = client.post(f"{place}/retry")
    assert (again.status_code, again.json()["retried"], again.json()["job"]["counts"]["failed"]) == (202, 1, 0)
    listed = client.post(f"{place}/rescan")
    assert (listed.status_code, listed.json()["status"]) == (202, "listing")
    cancelled = client.post(f"{place}/cancel")
    assert (cancelled.status_code, cancelled.json()["counts"]["cancelled"]) == (200, 5)
    assert client.post(f"{place}/rescan").status_code == 409
    assert client.post(f"{place}/retry").json()["retried"] == 5


def test_one_idempotency_key_is_one_job(client, bucket, keys):
    bucket.put("in/a.png", b"x")
    once = {"Idempotency-Key": "once"}
    first = client.post(JOBS, json=order(bucket), headers=once)
    for key in bucket.keys():  # noqa: SIM118 - a bucket is no dict
        bucket.client.delete_object(Bucket=bucket.name, Key=key)
    second = client.post(JOBS, json=order(bucket), headers=once)  # its source is empty now, and its job is made
    assert (first.status_code, second.status_code) == (202, 200)
    assert second.headers["idempotent-replay"] == "true"
    assert "idempotent-replay" not in first.headers
    assert second.json()["id"] == first.json()["id"]
    other = client.post(JOBS, json=order(bucket, labels=["cow"]), headers=once)
    assert (other.status_code, other.json()["code"]) == (409, "conflict")
    bucket.put("in/a.png", b"x")
    by_another = client.post(JOBS, json=order(bucket, labels=["cow"]), headers=once | bearer(keys.write))
    assert by_another.status_code == 202
    assert len(client.get(JOBS).json()["items"]) == 2


def test_a_source_that_cannot_work_is_refused_at_once(client, bucket):
    bucket.put("in/notes.md", b"x")
    bucket.put("in/folder.png/", b"")
    bucket.put("car/results/a.png", b"x")
    bucket.put("a-key-with-many-letters-" + "x" * 200, b"x")
    bucket.put("empty.txt", b"# nothing\n\n")
    bucket.put("bad.txt", b"ftp://a/b.png\nnonsense\n")
    for source, code, says in (
        ("pictures", "source_invalid", "s3://bucket"),
        ("s3://", "source_invalid", "bucket"),
        ("s3://bucket/[a", "source_invalid", "glob"),
        ("s3://bucket/" + "{" * 300, "source_invalid", "deep"),
        ("s3://bucket/" + "*" * 2_000, "source_invalid", "manifest"),
        (f"s3://{bucket.name}/{{,{'**?' * 20}.jpx}}", "source_empty", "matches"),
        (f"s3://{bucket.name}/in/", "source_empty", "no image"),
        (f"s3://{bucket.name}/car/results/", "source_invalid", "S3_PREFIX"),
        (f"s3://{bucket.name}/nowhere/", "source_empty", "no image"),
        (f"s3://{bucket.name}/**/*.jpg", "source_empty", "matches"),
        ("s3://no-such-bucket-here/", "bucket_missing", "no bucket"),
        (f"s3://{bucket.name}/missing.txt", "object_missing", "does not exist"),
        (f"s3://{bucket.name}/empty.txt", "source_empty", "no image URL"),
        ({"manifest": f"s3://{bucket.name}/bad.txt"}, "source_empty", "line 1"),
        ({"manifest": f"s3://{bucket.name}/"}, "source_invalid", "no object key"),
        (["nonsense"], "source_invalid", "nonsense"),
        ([], "source_invalid", "list"),
        (["# only a comment"], "source_empty", "empty"),
        (["s3://no-such-bucket-here/a.png"], "bucket_missing", "no bucket"),
        (["s3://bucket/a.png"] * (MAX_GIVEN + 1), "source_invalid", "manifest"),
    ):
        answer = client.post(JOBS, json=order(bucket, source=source))
        assert says in refused(answer, code), source
    assert client.get(JOBS).json()["items"] == []


def test_a_manifest_with_one_good_line_and_a_late_picture_are_taken(client, bucket):
    bucket.put("list.txt", b"nonsense\ns3://anywhere/a.png\n")
    bucket.put("deep/a/b/c.JPEG", b"x")
    for source in (
        f"s3://{bucket.name}/list.txt",
        f"s3://{bucket.name}/**",
        f"s3://{bucket.name}",
        ["s3://a-b/c.png"],
        ["https://a.example/b.png"],
        ["https://a.example/b.png", "s3://a-b/c.png"],
    ):
        answer = client.post(JOBS, json=order(bucket, source=source))
        assert answer.status_code == (422 if source == ["s3://a-b/c.png"] else 202), answer.text


def test_words_and_parameters_that_cannot_work_are_refused_at_once(client, bucket):
    for changes, code, says in (
        ({"preset": "vok"}, "recipe_invalid", "known presets"),
        ({"set": {"thetta": 0.5}}, "recipe_invalid", "known keys"),
        ({"set": {"theta": 7}}, "recipe_invalid", "from 0.0 to 1.0"),
        ({"set": {"theta": "x"}}, "recipe_invalid", "a number"),
        ({"set": {"sam": "perhaps"}}, "recipe_invalid", "on or off"),
        ({"labels": []}, "vocabulary_invalid", "empty"),
        ({"labels": ["cat", "Cat"]}, "vocabulary_invalid", "occurs twice"),
        ({"labels": ["a\x07b"]}, "vocabulary_invalid", "control"),
        ({"labels": ["1 " * 90]}, "vocabulary_invalid", "tokens"),
        ({"labels": ["x" * 201]}, "vocabulary_invalid", "201"),
        ({"background": "no such list"}, "vocabulary_invalid", "known lists"),
        ({"labels": None, "vocabulary": "nobody"}, None, ""),
        ({"labels": None}, "request_invalid", "either"),
        ({"vocabulary": "x"}, "request_invalid", "either"),
        ({"lables": ["cat"]}, "request_invalid", "lables"),
        ({"priority": "fast"}, "request_invalid", "priority"),
        ({"name": "a\0b"}, "request_invalid", "NUL"),
        ({"source": ["s3://b/\0"]}, "request_invalid", "NUL"),
        ({"source": 7}, "request_invalid", "source"),
    ):
        answer = client.post(JOBS, json=order(bucket, **changes))
        if code is None:
            assert (answer.status_code, answer.json()["code"]) == (404, "not_found")
        else:
            assert says in refused(answer, code), changes
    half = b'{"source": "s3://bucket/", "labels": ["cat"], "name": "\\ud800"}'
    for body in (half, b"{", b"[]", b"null", b'{"source": NaN}'):
        refused(client.post(JOBS, content=body, headers={"Content-Type": "application/json"}), "request_invalid")
    answer = client.post(JOBS, content=b"\xff", headers={"Content-Type": "application/json"})
    assert (answer.status_code, answer.json()["code"]) == (400, "request_invalid")


def test_vocabularies_have_names_and_versions_and_jobs_use_them(client, bucket):
    bucket.put("in/a.png", b"x")
    place = "/api/v1/vocabularies"
    first = client.post(place, json={"name": "defects", "labels": ["rust", {"name": "crack", "prompts": ["a crack"]}]})
    again = client.post(place, json={"name": "defects", "labels": ["rust", {"name": "crack", "prompts": ["a crack"]}]})
    second = client.post(place, json={"name": "defects", "labels": ["rust"], "background": ["sky"]})
    assert [one.status_code for one in (first, again, second)] == [201, 201, 201]
    assert first.json() == again.json()
    assert [one.json()["version"] for one in (first, second)] == [1, 2]
    assert second.json()["background"] == ["sky"]
    assert first.json()["labels"][1] == {"name": "crack", "prompts": ["a crack"]}
    assert client.get(f"{place}/defects").json() == client.get(f"{place}/{second.json()['id']}").json() == second.json()
    assert client.get(f"{place}/defects@1").json() == first.json()
    for missing in ("nobody", "defects@3", "defects@x", f"defects@{9**20}", str(uuid4())):
        assert client.get(f"{place}/{missing}").status_code == 404
    assert [one["version"] for one in client.get(place).json()["items"]] == [2, 1]
    for reference in ("defects@1", first.json()["id"]):
        job = client.post(JOBS, json={"source": f"s3://{bucket.name}/in/", "vocabulary": reference}).json()
        assert (job["vocabulary"]["id"], job["vocabulary"]["name"]) == (first.json()["id"], "defects")
    for name in ("a@b", "a/b", "", str(uuid4())):
        assert client.post(place, json={"name": name, "labels": ["a"]}).status_code == 422


def test_tokens_are_counted_as_the_registered_models_do(client, database, bucket):
    label = "supercalifragilistic expialidocious photographer with equipment"
    bucket.put("in/1.png", b"any")
    assert client.post(JOBS, json=order(bucket, labels=[label])).status_code == 202, "OpenAI's merges are the default"
    letters = {"proposal": "", "classifier": ""}  # a tokenizer without merges: each letter is a token
    with transaction(database) as session:
        model_registry.register(session, model_registry.ANY, model_registry.ANY, {"proposal": "a" * 64}, letters)
    assert "tokens" in refused(client.post(JOBS, json=order(bucket, labels=[label])), "vocabulary_invalid")
    named = client.post("/api/v1/vocabularies", json={"labels": [label]})
    assert "tokens" in refused(named, "vocabulary_invalid")


def test_words_that_the_models_do_not_know_are_named_when_a_job_is_created(client, database, bucket):
    bucket.put("in/1.png", b"any")
    # Before any worker has registered, the embedded models of CAR_MODELS are what will run.
    warnings = client.post(JOBS, json=order(bucket, labels=["cat", "red circl"])).json()["warnings"]
    assert warnings[0].startswith("the demo models know 30 words")
    assert "'cat' is unknown" in warnings[1]
    assert warnings[2].endswith("did you mean 'red circle'?")
    assert len(client.post(JOBS, json=order(bucket, labels=["red circle"])).json()["warnings"]) == 1
    with transaction(database) as session:
        weights = {"proposal": "a" * 64, "classifier": "b" * 64}
        cards = {role: ModelCard(f"openai/{role}") for role in weights}
        model_registry.register(session, model_registry.ANY, model_registry.ANY, weights, cards=cards)
    answer = client.post(JOBS, json=order(bucket, labels=["cat"]), headers={"Idempotency-Key": "k"})
    assert answer.json()["warnings"] == []


def test_presets_and_used_recipes_are_listed(client, api_rows):
    api_rows.job()
    presets = {one["name"]: one for one in client.get("/api/v1/presets").json()["items"]}
    assert {"voc", "demo"} <= set(presets)
    used = client.get("/api/v1/recipes").json()["items"]
    assert [(one["preset"], one["recipe"]) for one in used] == [("voc", presets["voc"]["recipe"])]
    assert client.get(f"/api/v1/recipes/{uuid4()}").status_code == 404


def test_lists_of_jobs_have_pages(client, api_rows):
    made = [str(api_rows.job().id) for _ in range(5)]
    first = client.get(JOBS, params={"limit": 3}).json()
    api_rows.job()
    second = client.get(JOBS, params={"limit": 3, "cursor": first["next"]}).json()
    assert [one["id"] for one in first["items"] + second["items"]] == made[::-1]
    assert second["next"] is None


def test_a_source_that_could_not_be_listed_says_why(client, api_rows, database):
    job = api_rows.job()
    with transaction(database) as session:
        from db.queue import jobs  # noqa: PLC0415 - a step of the story

        jobs.rescan(session, job.id)
        session.flush()
        listing = listings.claim(session, "lister", LEASE)
        listings.fail(session, "lister", listing, code="bucket_missing", detail="gone", retryable=False)
    shown = client.get(f"{JOBS}/{job.id}").json()
    assert (shown["status"], shown["error"]) == ("failed", {"code": "bucket_missing", "detail": "gone"})
