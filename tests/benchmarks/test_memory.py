"""Memory of an image with many words, measured in separate processes."""

import pytest

from benchmarks.memory import measure_memory
from benchmarks.memory_worker import Models
from cli.errors import ProcessFailedError
from evaluation.random_models import VIT_B16, VIT_L14, Shape

MIB = 2**20
GIB = 2**30
A_WORD = 0.2 * MIB
"""What a word may add at 384 x 256 with crops of 56 pixels: its masks of two steps, one bit per pixel
(12 KiB each), its crop, its texts and its CAM. A mask of floats alone would be 0.4 MiB."""
STAGES = ["models", "texts", "encode", "recurrence"]


def weights_left_out() -> int:
    """Bytes of the blocks that shallow models have not."""

    def blocks(width: int, fewer: int) -> int:
        return 4 * 12 * width**2 * fewer

    def left_out(full: Shape, shallow: Shape) -> int:
        return blocks(full.width, full.depth - shallow.depth) + blocks(
            full.text_width, full.text_depth - shallow.text_depth
        )

    return sum(map(left_out, (VIT_B16, VIT_L14), Models.SHALLOW.shapes))


@pytest.mark.slow
def test_memory_grows_with_words_by_a_mask_of_bits_and_a_crop_each():
    few, many = (measure_memory(384, 256, words, Models.TINY, finish=False) for words in (20, 140))
    assert list(few.peak_rss) == STAGES
    assert many.highest_rss - few.highest_rss <= 120 * A_WORD
    assert many.peak_cuda is None
    assert many.to_json()["highest_rss"] == max(many.peak_rss.values()) >= many.idle_rss


def test_a_process_that_fails_is_no_measurement():
    with pytest.raises(ProcessFailedError, match="64x64, 0 words"):
        measure_memory(64, 64, 0, Models.TINY)


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_a_thousand_words_on_a_large_image_stay_within_8_gib_until_the_crf():
    cost = measure_memory(1024, 768, 1000, Models.SHALLOW, finish=False)
    assert cost.highest_rss + weights_left_out() <= 8 * GIB, cost
