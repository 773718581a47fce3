"""Processes that finish pictures (CRF, coding) while the thread of the models goes on.

Threads would not do: pydensecrf2, the reference, keeps the GIL. Two CRFs of 640 x 480 in two threads on two cores take
0.99 of the time that they take one after the other, and a Python loop beside one CRF runs at 1 % of its speed. The
compiled kernels let go of it, but not all that is around them does.
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

_LAST_WORDS_SECONDS = 5.0


class PostprocessPool:
    """At most `processes` of them, started when needed and again when they die; 0 finishes in the calling thread.

    They are fresh interpreters and not forks, so they inherit neither CUDA nor locks, and may be had anywhere: also in
    Celery's daemonic children. multiprocessing's pools are no help here: they run the caller's __main__ again, give up
    every picture when one process dies, and stay behind when their owner is killed.
    """

    def __init__(self, *, processes: int) -> None:
        # The last to become idle is the next to work: where one process is enough no other is started.
        self._idle: LifoQueue[_PostprocessWorker] = LifoQueue()
        self._finishers = [_PostprocessWorker() for _ in range(processes)]
        for finisher in reversed(self._finishers):
            self._idle.put(finisher)
        self._threads = ThreadPoolExecutor(processes, thread_name_prefix="finisher") if processes else None

    def submit(self, pending: PendingSegmentation) -> Future[Segmentation]:
        """What `unfinished.finish` returns; timed where the recurrence was.

        The future raises FinisherLost where the process died with this picture in hand.
        """
        if self._threads is not None:
            return self._threads.submit(self._finish, pending)
        done: Future[Segmentation] = Future()
        try:
            done.set_result(_finished(pending))
        except Exception as error:  # noqa: BLE001 - a future holds whatever was raised
            done.set_exception(error)
        return done

    def _finish(self, unfinished: PendingSegmentation) -> Segmentation:
        finisher = self._idle.get()
        try:
            return finisher.finish(unfinished)
        finally:
            self._idle.put(finisher)

    def close(self) -> None:
        """Wait for the pictures in hand, cancel those that nobody has begun, end the processes."""
        if self._threads is not None:
            self._threads.shutdown(cancel_futures=True)
        for finisher in self._finishers:
            finisher.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _PostprocessWorker:
    """One process, for one thread at a time. It lives as long as its owner holds the other end of the line."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._line: Connection | None = None

    def finish(self, unfinished: PendingSegmentation) -> Segmentation:
        try:
            line = self._open_line()
            line.send(unfinished)
            answer: Segmentation | Exception = line.recv()
        except (EOFError, OSError) as error:
            raise PostprocessCrashedError(
                f"the process that finished the picture {self._end()}, so the picture is to be tried again; if this "
                "goes on, memory is short (set CAR_FINISH_PROCESSES or max_side lower) or the log says why"
            ) from error
        if isinstance(answer, Exception):
            raise answer
        return answer

    def _open_line(self) -> Connection:
        if self._process is not None and self._line is not None and self._process.poll() is None:
            return self._line
        self.close()
        self._line, theirs = Pipe()
        with theirs:
            self._process = subprocess.Popen(  # noqa: S603 - this interpreter, this file
                [sys.executable, "-P", "-m", "worker.pipeline.postprocess_pool", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OPENBLAS_NUM_THREADS": "1"},
            )
        return self._line

    def _end(self) -> str:
        """How the process ended, which it has by now or does at once."""
        process = self._process
        self.close()
        if process is None or process.returncode is None:
            return "could not be started"
        code = process.returncode
        return f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"

    def close(self) -> None:
        """A process that hears nothing more ends by itself."""
        if self._line is not None:
            self._line.close()
        if self._process is not None:
            try:
                self._process.wait(_LAST_WORDS_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._process = self._line = None


def _finished(unfinished: PendingSegmentation) -> Segmentation:
    return unfinished.finish(time.perf_counter if unfinished.timings else None)


def serve(line: Connection) -> None:
    """Finish pictures until the other end is closed, be it by the owner's death."""
    for number in (signal.SIGINT, signal.SIGTERM):
        # They reach whole process groups. The owner decides what is still finished, and its end is this one's end.
        signal.signal(number, signal.SIG_IGN)
    with suppress(OSError):  # Where memory runs out, better a picture than the models.
        Path("/proc/self/oom_score_adj").write_text("500")
    cv2.setNumThreads(1)  # there are as many processes as cores are to be used
    with suppress(EOFError, ConnectionError):
        while True:
            unfinished: PendingSegmentation = line.recv()
            answer: Segmentation | Exception
            try:
                answer = _finished(unfinished)
            except Exception as error:  # noqa: BLE001 - the caller's to judge, as far as another process can hold it
                portable = isinstance(error, (CarError, MemoryError))
                answer = error if portable else RuntimeError(f"{type(error).__name__}: {error}")
                answer.add_note(traceback.format_exc())
            line.send(answer)


if __name__ == "__main__":
    serve(Connection(int(sys.argv[1])))
