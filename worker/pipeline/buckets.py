"""Pictures that wait for the model, sorted by what can share a forward pass."""

import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Hashable

from worker.pipeline.work import Fetched

_COMPANY_SECONDS = 0.05
"""A picture waits so long at most for others of its kind, where some are still being fetched."""


class Buckets:
    """One queue for each vocabulary, recipe and padded size. Bounded by what the worker claims."""

    def __init__(self, bucket_of: Callable[[Fetched], Hashable], batch: int) -> None:
        self._bucket_of, self._batch = bucket_of, batch
        self._waiting: dict[Hashable, deque[tuple[float, Fetched]]] = defaultdict(deque)
        self._changed = threading.Condition()
        self._closed = False
        self._on_their_way = 0

    def expect(self, number: int) -> None:
        """So many more may come, or fewer where `number` is negative."""
        with self._changed:
            self._on_their_way += number
            self._changed.notify_all()

    def put(self, fetched: Fetched) -> None:
        with self._changed:
            self._waiting[self._bucket_of(fetched)].append((time.monotonic(), fetched))
            self._changed.notify_all()

    def close(self) -> None:
        """Nothing more will come; `take` gives what is left, then none."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def empty_out(self) -> list[Fetched]:
        """Everything that waits, taken away."""
        with self._changed:
            rest = [fetched for queue in self._waiting.values() for _, fetched in queue]
            self._waiting.clear()
            return rest

    def take(self) -> list[Fetched] | None:
        """The batch whose first picture has waited longest, full ones first; none when closed and empty. Waits until a
        batch is full, nothing more is on its way, or the first has waited long enough for company.
        """
        with self._changed:
            while True:
                key = self._ripe()
                if key is not None:
                    queue = self._waiting[key]
                    batch = [queue.popleft()[1] for _ in range(min(self._batch, len(queue)))]
                    if not queue:
                        del self._waiting[key]
                    return batch
                if self._closed and not self._waiting:
                    return None
                self._changed.wait(_COMPANY_SECONDS if self._waiting else None)

    def _ripe(self) -> Hashable | None:
        oldest = sorted((queue[0][0], number, key) for number, (key, queue) in enumerate(self._waiting.items()))
        for _, _, key in oldest:
            if len(self._waiting[key]) >= self._batch:
                return key
        if oldest:
            since, _, key = oldest[0]
            if self._closed or self._on_their_way <= 0 or time.monotonic() - since >= _COMPANY_SECONDS:
                return key
        return None
