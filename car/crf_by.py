"""Who computes the dense CRF. No recipe key: every one gives the same labels, all but ties to six digits."""

from enum import StrEnum


class CrfBy(StrEnum):
    AUTO = "auto"
    """The device that has the models or, on a CPU, the faster; lattices where pydensecrf would want much memory."""
    PYDENSECRF = "pydensecrf"
    """The reference, on a CPU."""
    LATTICE = "lattice"
    """Ours (worker.segmenter.mean_field), on the device that has the models."""
