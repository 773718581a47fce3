"""Pictures that wait for the model."""

import threading
from collections import defaultdict, deque

from worker.pipeline.types import FetchedItem


class ReadyQueue:
    """By priority, and in each first come, first served: who shares a batch is the model's affair. Bounded by what the
    worker claims.
    """

    def __init__(self) -> None:
        self._priorities: defaultdict[int, deque[FetchedItem]] = defaultdict(deque)
        self._changed = threading.Condition()
        self._closed = False

    def put(self, fetched: FetchedItem) -> None:
        with self._changed:
            self._priorities[fetched.item.priority].append(fetched)
            self._changed.notify_all()

    def close(self) -> None:
        """Nothing more will come; `take` gives what is left, then nothing."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def take(self, most: int, *, wait: bool) -> list[FetchedItem]:
        """Up to `most` of those that are here. With `wait`, at least one, unless nothing will come any more."""
        with self._changed:
            while wait and not len(self) and not self._closed:
                self._changed.wait()
            return [self._next() for _ in range(min(most, len(self)))]

    def _next(self) -> FetchedItem:
        return next(
            self._priorities[priority] for priority in sorted(self._priorities) if self._priorities[priority]
        ).popleft()

    def __len__(self) -> int:
        with self._changed:
            return sum(len(priority) for priority in self._priorities.values())
