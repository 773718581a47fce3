"""`python -m api`: serve until SIGTERM or SIGINT; requests in hand get ten seconds to end."""

import argparse
import sys

import structlog
import uvicorn

from api.app import create_app
from api.gc_tuning import tune_interpreter
from api.logs import configure
from api.settings import ApiSettings
from car.errors import CarError

_GRACE_SECONDS = 10


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m api", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=9090)
    chosen = parser.parse_args()
    try:
        settings = ApiSettings.from_environment()
        configure(settings.log_level)
        app = create_app(settings)
    except CarError as error:
        sys.exit(f"error: {error}")
    if settings.basic_auth_user is None:
        structlog.get_logger("api").warning("anybody may speak as Label Studio: BASIC_AUTH_USER is not set")
    app.state.face.aside.start()
    tune_interpreter()
    uvicorn.run(
        app,
        host=chosen.host,
        port=chosen.port,
        log_config=None,
        access_log=False,  # ours knows the request's id, and writes no query string
        timeout_graceful_shutdown=_GRACE_SECONDS,
        server_header=False,
    )


if __name__ == "__main__":
    main()
