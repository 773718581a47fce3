"""`make demo` as a newcomer meets it: the whole service from an empty folder, and again with the data it left."""

import fcntl
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

from cli.embedded.data_dir import is_held, read_notes
from cli.embedded.ports import free_port
from demo.sample_images import SAMPLE_IMAGES

ROOT = Path(__file__).parents[2]
SECONDS = 500
OWN_ENGINES = ("DATABASE_URL", "CELERY_BROKER_URL", "S3_BUCKET", "CAR_API_URL", "CAR_API_KEY", "CAR_DATA_DIR")


def start(folder: Path) -> "subprocess.Popen[str]":
    """The command of `make demo`, in a folder of its own."""
    # A port of its own: another test may look for the usual one in the same moment.
    options = ["--data-dir", f"{folder}/data", "--out", f"{folder}/out", "--port", str(free_port())]
    command = [sys.executable, "-m", "cli.main", "demo", *options]
    environment = {name: value for name, value in os.environ.items() if name not in OWN_ENGINES}
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def processes_of(folder: Path) -> list[str]:
    """Command lines that name the folder: servers and workers that are left."""
    lines = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = file.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if str(folder) in line:
            lines.append(line)
    return lines


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Folder and terminal output of a run."""
    folder = tmp_path_factory.mktemp("demo")
    with start(folder) as process:
        out, faults = process.communicate(timeout=SECONDS)
    assert process.returncode == 0, out + faults
    assert faults == ""
    return folder, out


def test_the_makefile_runs_this_command():
    assert "$(BIN)/car demo\n" in (ROOT / "Makefile").read_text()


def test_every_picture_is_labeled_and_its_overlay_saved(demo: tuple[Path, str]):
    folder, out = demo
    assert "done · 10 of 10 · 10 done" in out
    overlays = {path.name: path for path in (folder / "out" / "overlays").iterdir()}
    assert overlays.keys() == {f"{Path(picture.name).stem}.png" for picture in SAMPLE_IMAGES}
    for path in overlays.values():
        with Image.open(path) as image:
            image.load()


def test_results_and_their_history_are_told(demo: tuple[Path, str]):
    _, out = demo
    lines = {line.split()[0]: line for line in out.splitlines() if line.split() and "→" in line}
    assert lines.keys() == {picture.name for picture in SAMPLE_IMAGES}
    assert "nothing" in lines["nothing-but-grass.webp"]
    assert "blue cross" in lines["one-tiny.png"]
    assert out.count("first result: ") == 1
    assert out.index("first result: ") < out.index("What was found")
    assert "step 1  step 2" in out
    assert "4 of 30 kept after 2 steps" in out


def test_the_same_pictures_elsewhere_are_not_computed_again(demo: tuple[Path, str]):
    assert "10 of 10 were known, none computed twice" in demo[1]


def test_nothing_is_left_running_and_the_data_are_kept(demo: tuple[Path, str]):
    folder, out = demo
    assert not is_held(folder / "data")
    assert processes_of(folder) == []
    assert read_notes(folder / "data")["api"]["CAR_API_KEY"]
    assert f"car up --data-dir {folder}/data" in out


def test_a_demo_that_is_interrupted_stops_what_it_started(demo: tuple[Path, str]):
    folder = demo[0]
    with start(folder) as process:
        deadline = time.monotonic() + 60
        while not is_held(folder / "data") and time.monotonic() < deadline:
            time.sleep(0.1)
        time.sleep(1)  # in the middle of the start of the engines
        process.send_signal(signal.SIGINT)
        out, faults = process.communicate(timeout=SECONDS)
    assert process.returncode == 130, out + faults
    assert "the data are kept" in out
    assert processes_of(folder) == []


def test_a_folder_in_use_is_refused_in_words(demo: tuple[Path, str]):
    folder = demo[0]
    with (folder / "data" / "lock").open("a+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with start(folder) as process:
            out, faults = process.communicate(timeout=60)
    assert process.returncode == 2, out
    assert "runs on" in faults
    assert "--data-dir" in faults
