"""Nothing that a user wrote can steer the terminal, whichever command prints it."""

import ast
import io

import pytest
from rich.table import Table
from rich.text import Text

from cli.output.terminal import Terminal, echo
from tests.support.paths import ROOT

HOSTILE = ["\x1b[31mred", "a\rb", "\x07", "\x9b2J", "\u202egnp.exe", "\x1b]0;title\x07", "back\x08\x08"]
COMMANDS = sorted((ROOT / "cli").rglob("*.py"))


@pytest.mark.parametrize("text", HOSTILE)
def test_echo_shows_control_characters_as_escapes(capsys, text):
    echo(f"key {text} end")
    printed = capsys.readouterr().out
    assert printed.removesuffix("\n").isprintable()
    assert printed.endswith("end\n")


@pytest.mark.parametrize("text", HOSTILE)
@pytest.mark.parametrize("is_terminal", [True, False])
def test_tables_and_lines_of_a_terminal_show_them_too(text, is_terminal):
    written = io.StringIO()
    terminal = Terminal(file=written, force_terminal=is_terminal, color_system=None, width=200)
    table = Table("key")
    table.add_row(Text(text))
    terminal.print(table)
    terminal.print(text, markup=False)
    terminal.log(text)
    assert all(line.isprintable() for line in written.getvalue().split("\n"))


def test_joiners_of_words_stay(capsys):
    echo("می\N{ZERO WIDTH NON-JOINER}خواهم 👩\N{ZERO WIDTH JOINER}🚀")
    assert "\\u" not in capsys.readouterr().out


@pytest.mark.parametrize("path", COMMANDS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_command_prints_through_it(path):
    if path.name in ("terminal.py", "main.py"):
        return
    called = {ast.unparse(node.func) for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)}
    assert not called & {"print", "typer.echo", "Console", "sys.stdout.write", "rich.print"}
