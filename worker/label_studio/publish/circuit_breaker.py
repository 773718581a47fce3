"""Circuit breaker: while Label Studio is away or refuses the token, only single rows test it."""

import threading
import time
from collections.abc import Callable

import structlog

from worker.label_studio.errors import LabelStudioBusyError, LabelStudioError

_THRESHOLD = 3
"""Consecutive retryable failures that open the breaker: a single row that makes Label Studio fail must not."""
_FIRST_WAIT, _MAX_WAIT = 5.0, 300.0
_FIRST_REFUSED_WAIT = 60.0
"""Seconds, if a person has to change something first."""


class CircuitBreaker:
    """Closed at first. The state outlives a publish task; each change is logged once."""

    def __init__(self, *, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._lock = threading.Lock()
        self._open_until = 0.0
        self._failure_count = 0
        self._open_count = 0
        """Times it opened since the last success."""
        self._logged_code: str | None = None

    @property
    def is_closed(self) -> bool:
        return self._now() >= self._open_until

    def record_success(self) -> None:
        with self._lock:
            if self._logged_code is not None:
                structlog.get_logger().info("label_studio_sending_resumed", after=self._logged_code)
            self._failure_count, self._open_count, self._logged_code = 0, 0, None

    def record_failure(self, error: LabelStudioError) -> None:
        with self._lock:
            self._failure_count += 1
            requested_wait = error.wait if isinstance(error, LabelStudioBusyError) else None
            if error.retryable and requested_wait is None and self._failure_count < _THRESHOLD:
                return
            if not self.is_closed:  # opened by another row that was under way at the same time
                return
            first_wait = _FIRST_WAIT if error.retryable else _FIRST_REFUSED_WAIT
            wait = min(first_wait * 2**self._open_count, _MAX_WAIT)
            self._open_until = self._now() + max(wait, requested_wait or 0.0)
            self._open_count += 1
            if self._logged_code != error.code:
                self._logged_code = error.code
                structlog.get_logger().error("label_studio_sending_stopped", code=error.code, reason=str(error))
