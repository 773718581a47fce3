"""The memory of postprocessing an image when very many labels survive."""

import os
import subprocess
import sys

import pytest

from car.options import CrfBackend
from tests.support.paths import ROOT

# In a process of its own, like postprocessing: its peak is the memory of the image.
FINISH = """
import sys
import numpy as np
from car.options import CrfBackend
from car.presets import preset
from car.segmentation import StopReason, WorkCounters
from dataclasses import replace
from worker.segmenter.passes import PassResult
from worker.segmenter.postprocess import PendingSegmentation

def peak_bytes():
    # getrusage returns the parent's peak until the child's is greater.
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))

height, width, words, iterations = map(int, sys.argv[1:5])
rng = np.random.default_rng(0)
y, x = np.mgrid[:height, :width]
image = (128 + 90 * np.stack([np.sin(x / 37), np.cos(y / 53), np.sin((x + y) / 77)], -1)).astype(np.uint8)
cams = np.zeros((words, height // 16, width // 16), np.float32)
cams[np.arange(words), rng.integers(0, height // 16, words), rng.integers(0, width // 16, words)] = 1
names = tuple(f"word {k}" for k in range(words))
result = PassResult(names, (0.9,) * words, cams, 1.0, (), StopReason.UNCHANGED, WorkCounters())
recipe = replace(preset("voc"), crf_iterations=iterations)
before = peak_bytes()
masks = PendingSegmentation(
    size=(height, width), image=image, recipe=recipe, passes=(result,), order=names, timings={}, work=WorkCounters(),
    crf_backend=CrfBackend(sys.argv[5]),
).finish().masks
peak = peak_bytes()
print(len(masks), before, peak, "torch" in sys.modules)
"""


def finish(
    height: int, width: int, words: int, iterations: int, backend: CrfBackend = CrfBackend.LATTICE
) -> tuple[int, int, int]:
    """Return the number of masks, the bytes beyond those of the interpreter, and the peak."""
    numbers = [str(number) for number in (height, width, words, iterations)]
    output = subprocess.run(
        [sys.executable, "-c", FINISH, *numbers, backend],
        env=os.environ | {"PYTHONPATH": str(ROOT), "OPENBLAS_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    masks, before, peak = map(int, output[:3])
    assert output[3] == "False"
    return masks, peak - before, peak


def test_memory_grows_by_one_float_per_label_and_pixel() -> None:
    pytest.importorskip("pydensecrf")
    height, width, words = 128, 160, 600
    table = 4 * height * width * words
    small, large = finish(height, width, 200, 1), finish(height, width, words, 1)
    assert large[0] > 50
    growth = large[1] - small[1]
    assert growth < 1.5 * table * (words - 200) / words
    reference = finish(height, width, words, 1, CrfBackend.PYDENSECRF)
    assert reference[1] > 2 * large[1]


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_thousand_labels_on_a_large_image_stay_within_8_gib() -> None:
    masks, _, peak = finish(768, 1024, 1000, 10)
    assert masks > 300
    assert peak <= 8 * 2**30
