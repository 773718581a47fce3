"""Who computes the dense CRF. No recipe key: both give the same labels, all but ties to six digits."""

from enum import StrEnum


class CrfBy(StrEnum):
    LATTICE = "lattice"
    """Ours (worker.segmenter.mean_field): on CUDA where the models are, else on the CPU that finishes a picture."""
    PYDENSECRF = "pydensecrf"
    """The reference, always on a CPU. Memory grows with five tables of all labels and pixels."""
