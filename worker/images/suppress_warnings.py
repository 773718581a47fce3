"""Suppress Pillow's warnings in a thread that decodes an image, and in no other.

Pillow reports odd files through `warnings.warn`. Warning filters belong to the process: `warnings.catch_warnings` in
one thread changes them for all others, and under `-W error` a warning would fail a good image. So Pillow's modules get
their own `warnings` once, which drops warnings of decoding threads and passes on all others.
"""

import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import numpy as np
from PIL import Image


class _PillowWarnings:
    """The `warnings` module as Pillow sees it."""

    def warn(
        self, message: Warning | str, category: type[Warning] | None = None, stacklevel: int = 1, source: object = None
    ) -> None:
        if not _is_decoding.get():
            warnings.warn(message, category, stacklevel + 1, source)

    def __getattr__(self, name: str) -> object:
        return getattr(warnings, name)


_is_decoding = ContextVar("is_decoding", default=False)
_pillow_warnings = _PillowWarnings()
_install_lock = threading.Lock()
_installed = threading.Event()


@contextmanager
def suppress_warnings() -> Iterator[None]:
    """Suppress warnings of Pillow and NumPy in this thread. Any number of threads may do so at a time."""
    if not _installed.is_set():
        _install()
    token = _is_decoding.set(True)
    try:
        with np.errstate(all="ignore"):  # applies to this thread only
            yield
    finally:
        _is_decoding.reset(token)


def _install() -> None:
    with _install_lock:
        Image.init()  # imports every decoder
        for name, module in list(sys.modules.items()):
            if name.startswith("PIL.") and vars(module).get("warnings") is warnings:
                vars(module)["warnings"] = _pillow_warnings
        _installed.set()
