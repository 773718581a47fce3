"""Processes that postprocess images (CRF, mask encoding) while the model's thread goes on.

Threads are not enough: pydensecrf2, the reference, keeps the GIL. Two of its CRFs of 640 x 480 in two threads on two
cores take 0.99 of their time in sequence, and a Python loop beside one CRF runs at 1 % of its speed. The compiled
kernels release the GIL, but not all of the code around them does.
"""

import os
import signal
import subprocess
import sys
import time
import traceback
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from queue import LifoQueue
from typing import Self

import cv2

from car.errors import CarError
from car.segmentation import Segmentation
from worker.errors import PostprocessCrashedError
from worker.segmenter.postprocess import PendingSegmentation

_EXIT_SECONDS = 5.0


class PostprocessPool:
    """A pool of at most `processes`, started when needed and restarted after a crash; 0 computes in the calling thread.

    The processes are new interpreters, not forks: they inherit neither CUDA nor locks, and Celery's daemonic children
    may start them. multiprocessing's pools do not fit: they run the caller's __main__ again, lose every image when one
    process dies, and outlive an owner that is killed.
    """

    def __init__(self, *, processes: int) -> None:
        # Last in, first out: while one process is enough, no other is started.
        self._idle: LifoQueue[_PostprocessWorker] = LifoQueue()
        self._workers = [_PostprocessWorker() for _ in range(processes)]
        for worker in reversed(self._workers):
            self._idle.put(worker)
        self._threads = ThreadPoolExecutor(processes, thread_name_prefix="postprocess") if processes else None

    def submit(self, pending: PendingSegmentation) -> Future[Segmentation]:
        """Return a future of `pending.finish`, which is timed if the recurrence was.

        The future raises PostprocessCrashedError if the process dies with this image.
        """
        if self._threads is not None:
            return self._threads.submit(self._run, pending)
        done: Future[Segmentation] = Future()
        try:
            done.set_result(_finish(pending))
        except Exception as error:  # noqa: BLE001 - a future holds whatever was raised
            done.set_exception(error)
        return done

    def _run(self, pending: PendingSegmentation) -> Segmentation:
        worker = self._idle.get()
        try:
            return worker.run(pending)
        finally:
            self._idle.put(worker)

    def close(self) -> None:
        """Finish the running images, cancel the waiting ones, and end the processes."""
        if self._threads is not None:
            self._threads.shutdown(cancel_futures=True)
        for worker in self._workers:
            worker.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _PostprocessWorker:
    """One process, for one thread at a time. It ends when its owner closes the connection or dies."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: Connection | None = None

    def run(self, pending: PendingSegmentation) -> Segmentation:
        try:
            connection = self._connect()
            connection.send(pending)
            result: Segmentation | Exception = connection.recv()
        except (EOFError, OSError) as error:
            raise PostprocessCrashedError(
                f"the postprocessing process {self._describe_end()}; the image will be retried. If this repeats, see "
                "the log, or save memory with a lower CAR_POSTPROCESS_PROCESSES or max_side"
            ) from error
        if isinstance(result, Exception):
            raise result
        return result

    def _connect(self) -> Connection:
        if self._process is not None and self._connection is not None and self._process.poll() is None:
            return self._connection
        self.close()
        self._connection, remote = Pipe()
        with remote:
            self._process = subprocess.Popen(  # noqa: S603 - this interpreter, this file
                [sys.executable, "-P", "-m", "worker.pipeline.postprocess_pool", str(remote.fileno())],
                pass_fds=[remote.fileno()],
                stdin=subprocess.DEVNULL,
                env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OPENBLAS_NUM_THREADS": "1"},
            )
        return self._connection

    def _describe_end(self) -> str:
        process = self._process
        self.close()
        if process is None or process.returncode is None:
            return "could not be started"
        code = process.returncode
        return f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"

    def close(self) -> None:
        """Close the connection, at which the process ends by itself, and wait for its end."""
        if self._connection is not None:
            self._connection.close()
        if self._process is not None:
            try:
                self._process.wait(_EXIT_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._process = self._connection = None


def _finish(pending: PendingSegmentation) -> Segmentation:
    return pending.finish(time.perf_counter if pending.timings else None)


def serve(connection: Connection) -> None:
    """Postprocess images until the owner closes the connection or dies."""
    for number in (signal.SIGINT, signal.SIGTERM):
        # These reach whole process groups, but the owner decides what is still finished.
        signal.signal(number, signal.SIG_IGN)
    with suppress(OSError):  # If memory runs out, this process and not the models should be killed.
        Path("/proc/self/oom_score_adj").write_text("500")
    cv2.setNumThreads(1)  # there is one process per core
    with suppress(EOFError, ConnectionError):
        while True:
            pending: PendingSegmentation = connection.recv()
            result: Segmentation | Exception
            try:
                result = _finish(pending)
            except Exception as error:  # noqa: BLE001 - raised in the owner, as far as it can be pickled
                is_portable = isinstance(error, (CarError, MemoryError))
                result = error if is_portable else RuntimeError(f"{type(error).__name__}: {error}")
                result.add_note(traceback.format_exc())
            connection.send(result)


if __name__ == "__main__":
    serve(Connection(int(sys.argv[1])))
