"""Run-length encoding is many times faster than the SDK's."""

import pytest

from benchmarks.rle import BLURS, compare
from evaluation.synthetic_images import blobs


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools' own
@pytest.mark.parametrize("name", BLURS)
def test_brushes_are_coded_many_times_faster_than_by_the_sdk(name):
    rows = {row.operation: row for row in compare(blobs(1024, BLURS[name]), turns=3)}
    # Measured near 30x and 45x; the bounds leave room for a busy machine.
    assert rows["brush encode"].ratio >= 8
    assert rows["brush decode"].ratio >= 10
