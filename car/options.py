"""Options of a worker that are not part of a recipe: they do not change masks beyond ties."""

from enum import StrEnum


class Precision(StrEnum):
    AUTO = "auto"
    """float32 on a CPU, float16 on CUDA."""
    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"


class CrfBackend(StrEnum):
    LATTICE = "lattice"
    """worker.segmenter.crf.mean_field: on the device of the models, or in the postprocess pool on a CPU."""
    PYDENSECRF = "pydensecrf"
    """The reference implementation, always on a CPU. It needs five tables of labels x pixels."""
