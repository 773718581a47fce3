"""Whether Label Studio is worth asking now: where it is away or refuses the token, one row finds out for all."""

import threading
import time
from collections.abc import Callable

import structlog

from worker.label_studio.errors import LabelStudioBusyError, LabelStudioError

_PATIENCE = 3
"""Failures one after the other before all wait: a single row that breaks Label Studio, or a proxy, stops no other."""
_FIRST, _LONGEST = 5.0, 300.0
_REFUSED = 60.0
"""The first wait where somebody has to change something."""


class CircuitBreaker:
    """Open at first. What has happened is remembered from one publish to the next, and said once."""

    def __init__(self, *, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._lock = threading.Lock()
        self._until = 0.0
        self._failures = 0
        self._shut = 0
        """Times it was shut since something last went well."""
        self._said: str | None = None

    @property
    def is_closed(self) -> bool:
        return self._now() >= self._until

    def record_success(self) -> None:
        """Label Studio answered as it should."""
        with self._lock:
            if self._said is not None:
                structlog.get_logger().info("label_studio_answers_again", after=self._said)
            self._failures, self._shut, self._said = 0, 0, None

    def record_failure(self, error: LabelStudioError) -> None:
        """It did not, for this row."""
        with self._lock:
            self._failures += 1
            if error.retryable and not isinstance(error, LabelStudioBusyError) and self._failures < _PATIENCE:
                return
            if self._now() < self._until:  # of the same trouble as another row that was under way
                return
            first = _FIRST if error.retryable else _REFUSED
            asked = error.wait if isinstance(error, LabelStudioBusyError) else 0.0
            self._until = self._now() + max(min(first * 2**self._shut, _LONGEST), asked)
            self._shut += 1
            if self._said != error.code:
                self._said = error.code
                structlog.get_logger().error("label_studio_sending_stopped", code=error.code, reason=str(error))
