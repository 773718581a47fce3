"""Python itself, set for a process that answers within milliseconds whatever else it does."""

import gc
import sys

_SWITCH_SECONDS = 0.0005
"""Python's own 5 ms would be added to /health for every thread that computes in the same moment."""


def tune_interpreter() -> None:
    """Once a process is put together. A full collection stops every thread, for 150 ms and more where it looks at all
    modules, routes and queries; they stay, so it need not look at them again.
    """
    sys.setswitchinterval(_SWITCH_SECONDS)
    gc.collect()
    gc.freeze()
