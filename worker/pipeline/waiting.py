"""Pictures that wait for the model."""

import threading
from collections import defaultdict, deque

from worker.pipeline.work import Fetched


class Waiting:
    """By lane, and in each first come, first served: who shares a batch is the model's affair. Bounded by what the
    worker claims.
    """

    def __init__(self) -> None:
        self._lanes: defaultdict[int, deque[Fetched]] = defaultdict(deque)
        self._changed = threading.Condition()
        self._closed = False

    def put(self, fetched: Fetched) -> None:
        with self._changed:
            self._lanes[fetched.item.lane].append(fetched)
            self._changed.notify_all()

    def close(self) -> None:
        """Nothing more will come; `take` gives what is left, then nothing."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def take(self, most: int, *, wait: bool) -> list[Fetched]:
        """Up to `most` of those that are here. With `wait`, at least one, unless nothing will come any more."""
        with self._changed:
            while wait and not len(self) and not self._closed:
                self._changed.wait()
            return [self._next() for _ in range(min(most, len(self)))]

    def _next(self) -> Fetched:
        return next(self._lanes[lane] for lane in sorted(self._lanes) if self._lanes[lane]).popleft()

    def __len__(self) -> int:
        with self._changed:
            return sum(len(lane) for lane in self._lanes.values())
