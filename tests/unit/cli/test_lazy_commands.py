"""`car --help` lists every command without importing any, and the lines are those of the commands themselves."""

import subprocess
import sys

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from cli.lazy_commands import LazyGroup
from cli.main import app

COMMAND = get_command(app)
assert isinstance(COMMAND, LazyGroup)


@pytest.mark.parametrize("name", COMMAND.entries)
def test_the_line_in_the_help_is_the_first_of_the_command_s_own_help(name):
    help_text = COMMAND.commands[name].help
    assert help_text.split("\n\n")[0].replace("\n", " ").strip() == COMMAND.entries[name].help
    assert COMMAND.commands[name].name == name


@pytest.mark.parametrize("option", ["--help", "--version"])
def test_help_and_version_import_no_command(option):
    program = (
        f"import sys; sys.argv = ['car', {option!r}]\n"
        "try:\n    from cli.entry_point import main; main()\n"
        "except SystemExit as done:\n    assert not done.code\n"
        "heavy = ('cli.commands', 'cli.label_studio', 'numpy', 'sqlalchemy', 'torch', 'httpx')\n"
        "print('imported', [name for name in heavy if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "imported []"


def test_a_misspelt_command_gets_a_suggestion():
    done = CliRunner().invoke(app, ["job"])
    assert done.exit_code == 2
    assert "jobs" in done.output
