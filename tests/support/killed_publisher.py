"""A process that publishes and kills itself at a given step: `python -m tests.support.killed_publisher`.

It reads a number from each line and forks for it, so that a step costs no second start of Python, and writes
`killed NAME` or `done`. What the child uses is the product's own; the wrappers around it only count.
"""

import importlib
import os
import signal
import sys
from datetime import timedelta

from sqlalchemy import event

from db.objects import S3ObjectStore
from db.session import make_engine
from db.settings import EngineSettings
from worker.label_studio import LabelStudio
from worker.label_studio.publish import Publisher


class Steps:
    """SIGKILL at the n-th; its name goes to `told` first."""

    def __init__(self, fatal, told):
        self.left, self.told = fatal, told

    def __call__(self, name):
        self.left -= 1
        if self.left == 0:
            os.write(self.told, name.encode())
            os.kill(os.getpid(), signal.SIGKILL)


class CountedLabelStudio(LabelStudio):
    step = None

    def _send(self, method, path, *rest):
        self.step(f"before {method} {path}")
        answer = super()._send(method, path, *rest)
        self.step(f"after {method} {path}")
        return answer


class CountedObjects(S3ObjectStore):
    def get(self, key):
        step("before the masks are read")
        data = super().get(key)
        step("after the masks are read")
        return data


def step(name):
    CountedLabelStudio.step(name)


def publish(fatal, told):
    CountedLabelStudio.step = staticmethod(Steps(fatal, told))
    settings = EngineSettings.from_environment()
    engine = make_engine(settings.database_url.get_secret_value())
    event.listen(engine, "commit", lambda _: step("before a commit"))
    event.listen(engine, "checkin", lambda *_: step("after a commit"))
    store = S3ObjectStore.from_settings(settings)
    objects = CountedObjects(store.client, store.bucket, store.prefix)
    with CountedLabelStudio.from_settings(settings) as client:
        worker = f"killed-{os.getpid()}"
        Publisher(engine, objects, client, worker, threads=1, preset="demo", lease=timedelta(seconds=120)).publish(
            seconds=120
        )


def main():
    importlib.import_module("label_studio_sdk.label_interface")  # it takes a second, so not in each child
    for line in sys.stdin:
        read, write = os.pipe()
        child = os.fork()
        if child == 0:
            publish(int(line), write)
            os._exit(0)
        os.close(write)
        _, status = os.waitpid(child, 0)
        name = os.read(read, 200).decode()
        os.close(read)
        killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
        answer = f"killed {name}" if killed else "done" if status == 0 else f"broke {status}"
        sys.stdout.write(answer + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
