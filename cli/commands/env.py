"""`car env`: addresses and keys of a running service, for the shell."""

import shlex

from cli.options import DATA_DIR, DataFolder
from cli.output.terminal import echo


def env(data_dir: DataFolder = DATA_DIR) -> None:
    """Print addresses and keys of the service for the shell: eval "$(car env)"."""
    from cli.embedded.data_dir import is_held, read_notes

    notes = read_notes(data_dir)
    values: dict[str, str] = notes.get("environment", {}) | notes.get("api", {})
    for name, value in values.items():
        echo(f"export {name}={shlex.quote(value)}")
    if not is_held(data_dir):
        echo(f"# no service runs on {data_dir} now; start it with `car up`", err=True)
