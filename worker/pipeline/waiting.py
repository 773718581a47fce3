"""Pictures that wait for the model."""

import threading
from collections import deque

from worker.pipeline.work import Fetched


class Waiting:
    """First come, first served: who shares a batch is the model's affair. Bounded by what the worker claims."""

    def __init__(self) -> None:
        self._waiting: deque[Fetched] = deque()
        self._changed = threading.Condition()
        self._closed = False

    def put(self, fetched: Fetched) -> None:
        with self._changed:
            self._waiting.append(fetched)
            self._changed.notify_all()

    def close(self) -> None:
        """Nothing more will come; `take` gives what is left, then nothing."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def take(self, most: int, *, wait: bool) -> list[Fetched]:
        """Up to `most` of those that are here. With `wait`, at least one, unless nothing will come any more."""
        with self._changed:
            while wait and not self._waiting and not self._closed:
                self._changed.wait()
            return [self._waiting.popleft() for _ in range(min(most, len(self._waiting)))]
