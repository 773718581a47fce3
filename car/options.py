"""Who computes the dense CRF. No recipe key: both give the same labels, all but ties to six digits."""

from enum import StrEnum


class Precision(StrEnum):
    AUTO = "auto"
    """float32 on a CPU, float16 on CUDA."""
    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"


class CrfBackend(StrEnum):
    LATTICE = "lattice"
    """Ours (worker.segmenter.crf.mean_field): on CUDA where the models are, else on the CPU that finishes a picture."""
    PYDENSECRF = "pydensecrf"
    """The reference, always on a CPU. Memory grows with five tables of all labels and pixels."""
