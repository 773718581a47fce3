"""`python -m api`: serve until SIGTERM or SIGINT, then give open requests ten seconds to finish."""

import argparse
import gc
import sys

import structlog
import uvicorn

from api.app import create_app
from api.logs import configure
from api.settings import ApiSettings
from car.errors import CarError

_GRACE_SECONDS = 10
_SWITCH_SECONDS = 0.0005
"""Python's default of 5 ms would add 5 ms to /health for every thread that computes at the same time."""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m api", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=9090)
    arguments = parser.parse_args()
    try:
        settings = ApiSettings.from_environment()
        configure(settings.log_level)
        app = create_app(settings)
    except CarError as error:
        sys.exit(f"error: {error}")
    if settings.basic_auth_user is None:
        structlog.get_logger("api").warning("Label Studio's routes need no password: BASIC_AUTH_USER is not set")
    tune_interpreter()
    uvicorn.run(
        app,
        host=arguments.host,
        port=arguments.port,
        log_config=None,
        access_log=False,  # our own has the request's id and no query string
        timeout_graceful_shutdown=_GRACE_SECONDS,
        server_header=False,
    )


def tune_interpreter() -> None:
    """Let threads switch often, and exclude the modules, routes and queries loaded so far from garbage collection: a
    full collection of them stops every thread for 150 ms and more.
    """
    sys.setswitchinterval(_SWITCH_SECONDS)
    gc.collect()
    gc.freeze()


if __name__ == "__main__":
    main()
