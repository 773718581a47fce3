"""The queue of fetched images that wait for the model."""

import threading
from collections import defaultdict, deque

from worker.pipeline.types import FetchedItem


class ReadyQueue:
    """A thread-safe queue by priority, first in, first out in each. The limit on claims bounds it."""

    def __init__(self) -> None:
        self._queues: defaultdict[int, deque[FetchedItem]] = defaultdict(deque)
        self._changed = threading.Condition()
        self._closed = False

    def put(self, fetched: FetchedItem) -> None:
        with self._changed:
            self._queues[fetched.item.priority].append(fetched)
            self._changed.notify_all()

    def close(self) -> None:
        """Let `take` return the remaining images, then none."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def take(self, most: int, *, wait: bool) -> list[FetchedItem]:
        """Return up to `most` images; with `wait` at least one, unless the queue is closed and empty."""
        with self._changed:
            while wait and not len(self) and not self._closed:
                self._changed.wait()
            return [self._pop() for _ in range(min(most, len(self)))]

    def _pop(self) -> FetchedItem:
        return next(self._queues[priority] for priority in sorted(self._queues) if self._queues[priority]).popleft()

    def __len__(self) -> int:
        with self._changed:
            return sum(map(len, self._queues.values()))
