"""SAM's regions of masks, without SAM and without torch."""

import numpy as np

from worker.segmenter.sam.ensembling import Region


def region_from_mask(mask: np.ndarray, quality: float) -> Region:
    """Make a region of a mask (h, w) that is not empty."""
    columns, rows = np.flatnonzero(mask.any(0)), np.flatnonzero(mask.any(1))
    box = (int(columns[0]), int(rows[0]), int(columns[-1]), int(rows[-1]))
    return Region.from_packed_rows(np.packbits(mask, axis=1), box, quality)
