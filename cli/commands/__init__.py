"""The commands of `car`. Heavy modules are imported inside them, so that `car --help` is fast."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cli.service.api_client import ApiClient


def open_api(data_dir: Path) -> "ApiClient":
    """Return a client of the API that the environment or the data folder names; close it with `with`."""
    from cli.service.api_client import ApiClient
    from cli.service.connection_settings import api_address

    return ApiClient(api_address(data_dir))
