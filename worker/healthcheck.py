"""A container's health check: `python -m worker.healthcheck` exits with 0 if a worker of this host sent a heartbeat in
the last minute. One query, no torch.
"""

import socket
import sys

from car.errors import CarError
from db.queue import workers
from db.session import make_engine, transaction
from worker.settings import WorkerSettings


def main() -> int:
    try:
        engine = make_engine(WorkerSettings.from_environment().database_url.get_secret_value(), pool=1)
        with transaction(engine) as session:
            alive = workers.on_host(session, socket.gethostname())
    except CarError as error:
        print(error, file=sys.stderr)
        return 1
    if not alive:
        print(f"no heartbeat from a worker of {socket.gethostname()} in the last minute", file=sys.stderr)
    return 0 if alive else 1


if __name__ == "__main__":
    raise SystemExit(main())
