"""Silence for the thread that decodes a picture, and for no other.

Pillow speaks of odd files through `warnings.warn`. Its filters belong to the process: a thread that swaps them
(`warnings.catch_warnings`) swaps them under all others, and under `-W error` a warning would end a good picture. So
Pillow's modules get, once and for good, a `warnings` of their own, which drops what comes from a decoding thread and
passes on all else.
"""

import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from PIL import Image


class _Decoding(threading.local):
    now = False


class _ThreadsOwnWarnings:
    """The `warnings` module as Pillow sees it."""

    def warn(
        self, message: Warning | str, category: type[Warning] | None = None, stacklevel: int = 1, source: object = None
    ) -> None:
        if not _decoding.now:
            warnings.warn(message, category, stacklevel + 1, source)

    def __getattr__(self, name: str) -> object:
        return getattr(warnings, name)


_decoding = _Decoding()
_own = _ThreadsOwnWarnings()
_installing = threading.Lock()
_installed = threading.Event()


@contextmanager
def suppress_warnings() -> Iterator[None]:
    """Neither Pillow nor NumPy warns in this thread; any number of threads at a time."""
    if not _installed.is_set():
        _install()
    before, _decoding.now = _decoding.now, True
    try:
        with np.errstate(all="ignore"):  # of this thread alone
            yield
    finally:
        _decoding.now = before


def _install() -> None:
    with _installing:
        Image.init()  # imports every decoder
        for name, module in list(sys.modules.items()):
            if name.startswith("PIL.") and vars(module).get("warnings") is warnings:
                vars(module)["warnings"] = _own
        _installed.set()
