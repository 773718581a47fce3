"""`car jobs`, `car results` and `car keys` beside a running `car up`: real API, workers, engines and models."""

import json
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from car.bulk_source import split_s3
from cli.embedded.ports import free_port
from cli.main import app
from cli.service.connection_settings import object_store
from cli.service.service_process import car_up
from demo.sample_images import IMAGES, LABELS

GOOD = ("several.png", "one-tiny.png", "odd-size.png")
ELSEWHERE = ("DATABASE_URL", "CELERY_BROKER_URL", "S3_BUCKET", "CAR_API_URL", "CAR_API_KEY")


class Car:
    """The command line beside one `car up`."""

    def __init__(self, data_dir: Path) -> None:
        self.data_dir = data_dir

    def __call__(self, *arguments: object, code: int = 0) -> Result:
        without = dict.fromkeys(ELSEWHERE)
        result = CliRunner().invoke(app, list(map(str, arguments)), env={**without, "CAR_DATA_DIR": str(self.data_dir)})
        assert result.exit_code == code, result.output
        return result

    def documents(self, *arguments: object, code: int = 0) -> list[Any]:
        return [json.loads(line) for line in self(*arguments, "--json", code=code).stdout.splitlines()]


@pytest.fixture(scope="module")
def car(tmp_path_factory: pytest.TempPathFactory) -> Any:
    data_dir = tmp_path_factory.mktemp("up") / "data"
    with pytest.MonkeyPatch.context() as patch:
        for name in ELSEWHERE:
            patch.delenv(name, raising=False)
        with car_up(data_dir, free_port()):
            yield Car(data_dir)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three good images and a damaged one."""
    path = tmp_path_factory.mktemp("folder") / "pics"
    path.mkdir()
    for name in GOOD:
        shutil.copy(IMAGES / name, path)
    (path / "broken.png").write_bytes((IMAGES / "several.png").read_bytes()[:300])
    return path


@pytest.fixture(scope="module")
def made(car: Car, folder: Path) -> Result:
    """The output of creating and watching a job of the folder."""
    return car("jobs", "create", "--upload", folder, "--labels-file", LABELS, "--name", "first", "--watch", code=1)


@pytest.fixture(scope="module")
def job(car: Car, made: Result) -> Any:
    assert "created" in made.stderr
    return next(row for row in car.documents("jobs", "list") if row["name"] == "first")


@pytest.fixture(scope="module")
def results(car: Car, job: Any) -> dict[str, Any]:
    """Summaries by file name."""
    return {row["uri"].rsplit("/", 1)[-1]: row for row in car.documents("results", "list", "--job", job["id"])}


def test_watching_ends_with_the_job_and_names_what_failed(made: Result):
    assert "4 images uploaded" in made.stderr
    assert "done · 4 of 4 · 3 done · 1 failed" in made.stderr
    assert "broken.png is truncated or damaged" in made.stderr
    assert "image_corrupt" in made.stderr


def test_a_job_shows_its_request(car: Car, job: Any):
    assert job["recipe"]["preset"] == "demo"  # the service's models are the demo's
    shown = car("jobs", "show", job["id"]).stdout
    assert "uploads/first/" in shown
    assert "red circle, red square" in shown
    assert job["id"] in car("jobs", "list").stdout


def test_images_of_a_job_are_listed_by_state(car: Car, job: Any):
    assert "image_corrupt" in car("jobs", "show", job["id"], "--items", "failed").stdout
    assert {item["state"] for item in car.documents("jobs", "show", job["id"], "--items", "all")} == {"done", "failed"}
    assert car.documents("jobs", "show", job["id"], "--items", "queued") == []


def test_masks_are_those_of_car_segment_bit_for_bit(car: Car, results: dict[str, Any], tmp_path: Path):
    for name in GOOD:
        document = tmp_path / f"{name}.json"
        car("segment", IMAGES / name, "--json", document, "--quiet")
        alone, served = json.loads(document.read_text()), car.documents("results", "show", results[name]["id"])[0]
        assert served["masks"] == alone["masks"]
        assert served["steps"] == alone["steps"]
        assert served["model_version"] == alone["model_version"]


def test_results_are_filtered(car: Car, results: dict[str, Any]):
    def names(*filters: object) -> set[str]:
        return {row["uri"].rsplit("/", 1)[-1] for row in car.documents("results", "list", *filters)}

    assert names("--label", "blue cross") == {"one-tiny.png"}
    assert names("--label", "blue cross", "--min-score", 0.5, "--dropped", "red star") == {"one-tiny.png"}
    assert names("--image", IMAGES / "odd-size.png") == {"odd-size.png"}
    assert names("--image", results["odd-size.png"]["image"]["sha256"].upper()) == {"odd-size.png"}
    assert names("--dropped", "red star", "--dropped-at", 9) == set()
    assert names("--model-version", results["several.png"]["model_version"]) == set(GOOD)
    assert len(names("--limit", 2)) == 2


def test_a_result_is_shown_with_its_history_overlay_and_masks(car: Car, results: dict[str, Any], tmp_path: Path):
    result = results["several.png"]["id"]
    shown = car("results", "show", result).stdout
    assert "uploads/first/" in shown
    assert "/several.png" in shown
    assert f"/api/v1/results/{result}/overlay.png" in shown
    history = car("results", "history", result).stdout
    assert "4 of 30 kept after 2 steps" in history
    assert len(car.documents("results", "history", result)[0]["steps"]) == 2
    car("results", "overlay", result, tmp_path / "new" / "overlay.png")
    with Image.open(tmp_path / "new" / "overlay.png") as overlay:
        assert overlay.format == "PNG"
    car("results", "masks", result, tmp_path / "masks")
    assert {path.name for path in (tmp_path / "masks").glob("*.png")} == {
        "orange-star.png", "yellow-square.png", "green-cross.png", "blue-triangle.png",
    }  # fmt: skip


@pytest.mark.usefixtures("job")
def test_the_same_images_again_are_reused(car: Car, folder: Path):
    again = car("jobs", "create", "--upload", folder, "--labels-file", LABELS, "--name", "second", "--watch", code=1)
    assert "3 reused" in again.stderr
    third = car("jobs", "create", "--upload", folder, "--labels-file", LABELS, "--name", "second")
    assert "0 images uploaded, 4 already there" in third.stderr
    watched = car.documents("jobs", "watch", third.stdout.strip(), code=1)[0]
    assert watched["reused"] == 3


def test_failed_images_are_retried_and_done_after_a_repair(car: Car, folder: Path):
    request_options = ["--upload", folder, "--name", "mending", "--labels", "red circle"]
    job = json.loads(car("jobs", "create", *request_options, "--watch", "--json", code=1).stdout)
    store = object_store(car.data_dir)
    mended = (IMAGES / "alpha.png").read_bytes()
    [failed] = car.documents("jobs", "show", job["id"], "--items", "failed")
    store.put_object(*split_s3(failed["uri"]), mended, "image/png")
    tried = car("jobs", "retry", job["id"], "--watch")
    assert "1 images queued again" in tried.stderr
    assert "4 done" in tried.stdout


def test_a_rescan_finds_new_images(car: Car):
    store = object_store(car.data_dir)
    store.put_object(store.bucket, "grows/a.png", (IMAGES / "several.png").read_bytes(), "image/png")
    source = f"s3://{store.bucket}/grows/*.png"
    made = car("jobs", "create", "--source", source, "--labels", "red circle", "--watch", "--json")
    job = json.loads(made.stdout)
    store.put_object(store.bucket, "grows/b.png", (IMAGES / "one-tiny.png").read_bytes(), "image/png")
    assert car.documents("jobs", "rescan", job["id"], "--watch")[0]["counts"]["done"] == 2


def test_a_job_is_cancelled_and_watching_it_ends(car: Car, folder: Path):
    labels = ",".join(f"word {number}" for number in range(400))  # long enough to be in time
    made = car("jobs", "create", "--upload", folder, "--name", "stopped", "--labels", labels)
    cancelled = car("jobs", "cancel", made.stdout.strip())
    assert "cancelled" in cancelled.stdout
    assert car.documents("jobs", "watch", made.stdout.strip(), code=1)[0]["status"] == "cancelled"


@pytest.mark.usefixtures("job")
def test_a_repeated_request_makes_one_job(car: Car):
    store = object_store(car.data_dir)
    request_options = ["jobs", "create", "--source", f"s3://{store.bucket}/uploads/first/", "--labels", "red circle"]
    first = car(*request_options, "--idempotency-key", "nightly")
    again = car(*request_options, "--idempotency-key", "nightly")
    assert first.stdout == again.stdout
    assert "created before" in again.stderr
    other = car(*request_options, "--priority", "interactive", "--idempotency-key", "nightly", code=2)
    assert "another request" in other.stderr


def test_a_local_manifest_names_the_images(car: Car, results: dict[str, Any], tmp_path: Path):
    manifest = tmp_path / "list.txt"
    manifest.write_text(f"# one\n{results['several.png']['uri']}\n")
    done = car.documents("jobs", "create", "--manifest", manifest, "--labels-file", LABELS, "--watch")[0]
    assert (done["total"], done["counts"]["done"]) == (1, 1)


@pytest.mark.parametrize(
    ("request_options", "message"),
    [
        (["--source", "s3://nowhere-at-all/x/", "--labels", "a"], "bucket_missing"),
        (["--source", "s3://car/nothing-here/", "--labels", "a"], "source_empty"),
        (["--source", "pictures/", "--labels", "a"], "s3://bucket/folder"),
        (["--source", "s3://car/uploads/", "--labels", "a,a"], "vocabulary_invalid"),
        (["--source", "s3://car/uploads/", "--labels", "a", "--preset", "none"], "recipe_invalid"),
        (["--source", "s3://car/uploads/", "--labels", "a", "--set", "theta"], "KEY=VALUE"),
        (["--source", "s3://car/uploads/", "--vocabulary", "nonesuch"], "nonesuch"),
        (["--source", "s3://car/uploads/", "--upload", ".", "--labels", "a"], "one of"),
        (["--source", "s3://car/uploads/"], "no labels"),
    ],
)
def test_what_cannot_work_is_refused_with_exit_code_2(car: Car, request_options: list[str], message: str):
    assert message in car("jobs", "create", *request_options, code=2).stderr


def test_a_revoked_key_is_refused(car: Car):
    secret = car("keys", "create", "passing by").stdout.strip()
    environment = {"CAR_API_KEY": secret, "CAR_DATA_DIR": str(car.data_dir)}
    read = ["jobs", "list", "--json"]
    assert CliRunner().invoke(app, read, env=environment).exit_code == 0
    forbidden = CliRunner().invoke(app, ["jobs", "cancel", "01900000-0000-7000-8000-000000000000"], env=environment)
    assert forbidden.exit_code == 2
    assert "scope" in forbidden.stderr
    car("keys", "revoke", secret[:12])
    time.sleep(0.1)
    refused = CliRunner().invoke(app, read, env=environment)
    assert refused.exit_code == 2
    assert "revoked" in refused.stderr
