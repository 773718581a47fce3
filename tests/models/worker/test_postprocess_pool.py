"""Images finished by other processes: the same bits, little to carry, and a death that costs one image."""

import os
import pickle
import signal
import subprocess
import sys
import time
from concurrent.futures import CancelledError
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from car.presets import preset
from car.recipe import Mode, Recipe, VisualPrompt
from car.segmentation import Pass, Segmentation
from car.vocabulary import Vocabulary, parse_labels_file
from demo.clip_models import WEIGHTS
from worker.errors import PostprocessCrashedError
from worker.images import find_images, open_image
from worker.models.weights import load_pair
from worker.pipeline.postprocess_pool import PostprocessPool
from worker.segmenter.postprocess import PendingSegmentation
from worker.segmenter.segmenter import Segmenter

DEMO = WEIGHTS.parent
WORDS = [label.name for label in parse_labels_file((DEMO / "labels.txt").read_text())]
RECIPE = preset("demo")
STUFF = replace(RECIPE, stuff=tuple(WORDS[5:12]), stuff_visual_prompts=(VisualPrompt.GRAY,))
REFER = replace(RECIPE, mode=Mode.REFER, theta=0.0)


@pytest.fixture(scope="module")
def car() -> Segmenter:
    pair = load_pair(WEIGHTS / "proposal", WEIGHTS / "classifier", device=torch.device("cpu"))
    return Segmenter(pair.proposal, pair.classifier)


@pytest.fixture(scope="module")
def images() -> list[np.ndarray]:
    return [open_image(path).pixels for path in find_images([DEMO / "images"])]


def recurred(car: Segmenter, images: list[np.ndarray], recipe: Recipe, words: list[str]) -> list[PendingSegmentation]:
    return car.recur(images, Vocabulary.from_words(words, mode=recipe.mode), recipe)


@pytest.fixture(scope="module")
def one(car: Segmenter, images: list[np.ndarray]) -> PendingSegmentation:
    return recurred(car, images[:1], RECIPE, WORDS)[0]


def slow(one: PendingSegmentation) -> PendingSegmentation:
    """The same image, larger and with so many CRF iterations that it takes more than a second."""
    return replace(one, recipe=replace(one.recipe, crf_iterations=60), image=np.tile(one.image, (3, 3, 1)))


def broken(one: PendingSegmentation) -> PendingSegmentation:
    return replace(one, passes=(replace(one.passes[0], scores=()),))


def running(pool: PostprocessPool, count: int) -> list[int]:
    """Process ids of the pool once `count` of them are up."""
    until = time.monotonic() + 20
    while time.monotonic() < until:
        processes = [worker._process for worker in pool._workers]
        ids = [process.pid for process in processes if process is not None]
        if len(ids) == count:
            return ids
        time.sleep(0.01)
    raise AssertionError(f"not {count} pool")


@pytest.mark.parametrize(
    ("recipe", "words", "crfs"),
    [(RECIPE, WORDS, 1), (STUFF, WORDS[:15], 2), (REFER, WORDS[:4], 4)],
    ids=["one pass", "things and stuff", "referring expressions"],
)
def test_another_process_finishes_the_demo_images_bit_for_bit(car, images, recipe, words, crfs) -> None:
    unfinished = recurred(car, images, recipe, words)
    here = [one.finish() for one in unfinished]
    with PostprocessPool(processes=2) as pool:
        futures = [pool.submit(one) for one in unfinished]
        assert [future.result(60) for future in futures] == here
    assert any(result.masks for result in here)
    passes = {step.pass_kind for result in here for step in result.steps}
    assert passes == ({Pass.THINGS, Pass.STUFF} if recipe is STUFF else {Pass.THINGS})
    assert max(result.work.crf_runs for result in here) == crfs


def test_a_long_image_is_carried_small_and_finished_at_its_own_size(car, images) -> None:
    recipe = replace(RECIPE, max_side=96)
    [one] = recurred(car, [images[0]], recipe, WORDS)
    assert one.image.size < images[0].size / 2
    with PostprocessPool(processes=1) as pool:
        result = pool.submit(one).result(60)
    assert result == car.segment([images[0]], Vocabulary.from_words(WORDS), recipe)[0]
    assert (result.height, result.width) == images[0].shape[:2]


def test_what_is_carried_is_hardly_more_than_the_image(car, images) -> None:
    for one in recurred(car, images[:3], RECIPE, WORDS):
        cams = sum(rest.cams.nbytes for rest in one.passes)
        words = sum(len(step.queries) for rest in one.passes for step in rest.steps)
        assert cams < one.image.nbytes / 2
        assert len(pickle.dumps(one)) < one.image.nbytes + cams + 100 * words + 4096


def test_times_are_taken_where_the_recurrence_had_a_clock(car, images, one) -> None:
    timed = replace(car, clock=time.perf_counter).recur(images[:1], Vocabulary.from_words(WORDS), RECIPE)[0]
    with PostprocessPool(processes=1) as pool:
        times = pool.submit(timed).result(60).timings
        assert pool.submit(one).result(60).timings == {}
    assert set(times) == {"encode_ms", "text_ms", "proposal_ms", "classifier_ms", "crf_ms"}
    assert times.items() > timed.timings.items()


def test_no_processes_mean_the_calling_thread(one, monkeypatch) -> None:
    monkeypatch.setattr(subprocess, "Popen", None)
    with PostprocessPool(processes=0) as pool:
        assert pool.submit(one).result(0) == one.finish()
        failed = pool.submit(broken(one))
    assert isinstance(failed.exception(0), ValueError)


def test_what_fails_in_another_process_says_why_and_costs_no_neighbour(one) -> None:
    with PostprocessPool(processes=1) as pool:
        with pytest.raises(RuntimeError, match=r"ValueError: zip\(\)") as failed:
            pool.submit(broken(one)).result(60)
        assert "postprocess.py" in failed.value.__notes__[0]
        [process] = running(pool, 1)
        assert pool.submit(one).result(60) == one.finish()
        assert running(pool, 1) == [process]


def test_a_killed_process_costs_the_image_in_its_hand_alone(one) -> None:
    with PostprocessPool(processes=2) as pool:
        first = pool.submit(slow(one))
        [victim] = running(pool, 1)
        second = pool.submit(slow(one))
        waiting = [pool.submit(one) for _ in range(4)]
        running(pool, 2)
        os.kill(victim, signal.SIGKILL)
        with pytest.raises(PostprocessCrashedError, match="SIGKILL") as lost:
            first.result(60)
        assert lost.value.retryable
        assert [future.result(60) for future in waiting] == [one.finish()] * 4
        assert isinstance(second.result(60), Segmentation)


def test_a_process_killed_while_idle_costs_nothing(one) -> None:
    with PostprocessPool(processes=1) as pool:
        expected = pool.submit(one).result(60)
        [victim] = running(pool, 1)
        os.kill(victim, signal.SIGKILL)
        os.waitid(os.P_PID, victim, os.WEXITED | os.WNOWAIT)
        assert pool.submit(one).result(60) == expected


def test_signals_to_the_whole_group_leave_the_images_in_hand_alone(one) -> None:
    with PostprocessPool(processes=1) as pool:
        pool.submit(one).result(60)
        busy = pool.submit(slow(one))
        [process] = running(pool, 1)
        for number in (signal.SIGTERM, signal.SIGINT):
            os.kill(process, number)
        assert isinstance(busy.result(60), Segmentation)


def test_closing_ends_the_processes_and_cancels_what_nobody_began(one) -> None:
    pool = PostprocessPool(processes=1)
    begun, waiting = pool.submit(slow(one)), pool.submit(one)
    [process] = running(pool, 1)
    pool.close()
    assert isinstance(begun.result(0), Segmentation)
    with pytest.raises(CancelledError):
        waiting.result(0)
    with pytest.raises(ProcessLookupError):
        os.kill(process, 0)


def test_a_busy_finisher_leaves_the_interpreter_to_other_threads(one) -> None:
    with PostprocessPool(processes=1) as pool:
        pool.submit(one).result(60)
        busy, moments = pool.submit(slow(one)), [time.perf_counter()]
        while not busy.done():
            time.sleep(0.001)
            moments.append(time.perf_counter())
    # One CRF in this process would stop the loop for nearly its whole length.
    assert max(np.diff(moments)) < (moments[-1] - moments[0]) / 3


def script(code: str, *arguments: object) -> str:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout


def test_finishing_needs_no_torch(one, tmp_path: Path) -> None:
    (tmp_path / "one").write_bytes(pickle.dumps(one))
    seen = script(
        "import pickle, sys, worker.pipeline.postprocess_pool\n"
        "print(len(pickle.load(open(sys.argv[1], 'rb')).finish().masks))\n"
        "print({'torch', 'transformers', 'celery', 'sqlalchemy'} & {*sys.modules})",
        tmp_path / "one",
    )
    assert seen.split("\n")[:2] == [str(len(one.finish().masks)), "set()"]


def test_a_daemonic_child_of_celerys_pool_may_have_finishers(one, tmp_path: Path) -> None:
    (tmp_path / "one").write_bytes(pickle.dumps(one))
    code = (
        "import pickle, sys\n"
        "from billiard.context import ForkContext\n"
        "from worker.pipeline.postprocess_pool import PostprocessPool\n"
        "def child(path):\n"
        "    one = pickle.load(open(path, 'rb'))\n"
        "    with PostprocessPool(processes=1) as pool:\n"
        "        print(pool.submit(one).result() == one.finish(), flush=True)\n"
        "process = ForkContext().Process(target=child, args=(sys.argv[1],), daemon=True)\n"
        "process.start()\n"
        "process.join()\n"
    )
    assert script(code, tmp_path / "one") == "True\n"


def test_processes_end_when_their_owner_is_killed(one, tmp_path: Path) -> None:
    (tmp_path / "one").write_bytes(pickle.dumps(one))
    code = (
        "import os, pickle, signal, sys\n"
        "from worker.pipeline.postprocess_pool import PostprocessPool\n"
        "pool = PostprocessPool(processes=1)\n"
        "pool.submit(pickle.load(open(sys.argv[1], 'rb'))).result()\n"
        "print(pool._workers[0]._process.pid, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    # The process inherits the pipe, so reading it to its end waits for the process's end.
    killed = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "one"], stdout=subprocess.PIPE, check=False, timeout=60
    )
    assert killed.returncode == -signal.SIGKILL
    assert int(killed.stdout) > 1
