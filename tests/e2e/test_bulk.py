"""A bucket is labeled by the service as its user runs it: `car up`, `car jobs create`, and questions to the API."""

import json
import os
import socket
import struct
import subprocess
import sys
import time
import zlib
from io import BytesIO

import httpx
import pytest
from PIL import Image

from cli.model_selection import demo_folder
from demo.scenes import held_out_scenes

pytestmark = pytest.mark.timeout(1500)


def car(environment, *arguments, timeout=1200):
    return subprocess.run(
        [sys.executable, "-m", "cli.main", *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@pytest.fixture
def service(engine_environment, tmp_path):
    """`car up` on this test's engines, and what `car env` says of it."""
    port = free_port()
    folder = tmp_path / "car"
    command = [sys.executable, "-m", "cli.main", "up", "--port", str(port), "--data-dir", str(folder)]
    with (tmp_path / "up.log").open("wb") as log:
        up = subprocess.Popen(command, env=engine_environment, stdout=log, stderr=log)
    try:
        environment = engine_environment | _exported(engine_environment, folder, up, tmp_path)
        yield environment
    finally:
        up.terminate()
        try:
            up.wait(60)
        finally:
            up.kill()
            up.wait()


def _exported(environment, folder, up, tmp_path):
    """Once it is ready."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if up.poll() is not None:
            break
        exported = car(environment, "env", "--data-dir", str(folder))
        names = dict(line.removeprefix("export ").split("=", 1) for line in exported.stdout.splitlines())
        names = {name: value.strip("'\"") for name, value in names.items()}
        try:
            if names and httpx.get(names["CAR_API_URL"] + "/readyz", trust_env=False).is_success:
                return names
        except (httpx.TransportError, KeyError):
            pass
        time.sleep(0.5)
    pytest.fail((tmp_path / "up.log").read_text())


def huge_header():
    """A PNG of a few bytes that promises 40,000 x 40,000 pixels."""

    def chunk(kind, data):
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 40_000, 40_000, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0" * 64)) + chunk(b"IEND", b"")


def fill(bucket, folder, scenes, repeated):
    """The scenes, some of them under a second key, and three bad files; paths of the scenes by key."""
    paths = {}
    for number, scene in enumerate(scenes):
        out = BytesIO()
        Image.fromarray(scene.image).save(out, format="PNG")
        path = folder / f"{number:03}.png"
        path.write_bytes(out.getvalue())
        for key in [f"in/{number:03}.png"] + ([f"in/again/{number:03} copy.png"] if number < repeated else []):
            bucket.put(key, out.getvalue())
            paths[f"s3://{bucket.name}/{key}"] = path
    bucket.put("in/text.png", b"no picture at all")
    bucket.put("in/cut.png", out.getvalue()[:200])
    bucket.put("in/huge.png", huge_header())
    bucket.put("in/notes.txt", b"not asked for")
    return paths


def all_entries(client, path, **parameters):
    """All entries of a list, page after page."""
    entries, cursor = [], None
    while True:
        answer = client.get(path, params={**parameters, **({"cursor": cursor} if cursor else {})}).raise_for_status()
        page = answer.json()
        entries += page["items"]
        cursor = page["next"]
        if cursor is None:
            return entries


@pytest.mark.parametrize(
    ("count", "repeated", "side"),
    [pytest.param(8, 3, 96, id="a few"), pytest.param(200, 12, 160, id="two hundred", marks=pytest.mark.slow)],
)
def test_a_bucket_is_labeled_as_car_segment_would_bit_for_bit(service, bucket, tmp_path, count, repeated, side):
    folder = tmp_path / "pictures"
    folder.mkdir()
    paths = fill(bucket, folder, held_out_scenes(count, seed=9, size=(side, side)), repeated)
    labels = str(demo_folder() / "labels.txt")
    created = car(
        service, "jobs", "create", "--source", f"s3://{bucket.name}/in/**", "--labels-file", labels, "--preset", "demo",
        "--watch", "--json",
    )  # fmt: skip
    assert created.returncode == 1, created.stderr  # three pictures failed
    job = json.loads(created.stdout.splitlines()[-1])
    assert job["status"] == "done"
    assert {state: n for state, n in job["counts"].items() if n} == {"done": count + repeated, "failed": 3}
    assert job["reused"] == repeated

    key = {"Authorization": f"Bearer {service['CAR_API_KEY']}"}
    with httpx.Client(base_url=service["CAR_API_URL"], headers=key, trust_env=False) as client:
        failed = all_entries(client, f"/api/v1/jobs/{job['id']}/items", state="failed", limit=2)
        assert {row["uri"].rsplit("/", 1)[1]: row["error"]["code"] for row in failed} == {
            "text.png": "image_unsupported",
            "cut.png": "image_corrupt",
            "huge.png": "image_too_large",
        }
        entries = all_entries(client, "/api/v1/results", job=job["id"], limit=7)
        assert sorted(row["uri"] for row in entries) == sorted(paths)
        assert len({row["id"] for row in entries}) == count
        results = {row["uri"]: client.get(f"/api/v1/results/{row['id']}").raise_for_status().json() for row in entries}

    alone_run = car(
        {name: value for name, value in os.environ.items() if not name.startswith("CAR_")},
        "segment", str(folder), "--labels-file", labels, "--preset", "demo", "--json", str(tmp_path / "alone") + "/",
    )  # fmt: skip
    assert alone_run.returncode == 0, alone_run.stderr
    alone = {path: json.loads((tmp_path / "alone" / f"{path.stem}.json").read_text()) for path in set(paths.values())}
    for uri, path in paths.items():
        for part in ("masks", "steps", "stop_reason", "model_version", "recipe", "work"):
            assert results[uri][part] == alone[path][part], (uri, part)
        for part in ("sha256", "width", "height"):
            assert results[uri]["image"][part] == alone[path]["image"][part]
