"""In how many bits the models compute: a wish of whoever runs them, no part of a recipe (see decision 12)."""

from enum import StrEnum


class Precision(StrEnum):
    AUTO = "auto"
    """float32 on a CPU, float16 on CUDA."""
    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"
