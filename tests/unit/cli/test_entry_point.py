"""`car` says what an installation lacks, and never shows a traceback."""

import os
import subprocess
import sys
from pathlib import Path

HIDE = "import sys; sys.modules[{module!r}] = None; sys.argv = ['car', *{arguments!r}]; "
RUN = "from cli.entry_point import main; main()"


def run(program: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    variables = {name: value for name, value in os.environ.items() if name != "CAR_TRACEBACK"} | environment
    command = [sys.executable, "-c", program]
    return subprocess.run(command, env=variables, capture_output=True, text=True, check=False)


def test_an_installation_without_extras_names_the_extra_of_the_command_line():
    done = run(HIDE.format(module="typer", arguments=["--help"]) + RUN)
    assert done.returncode == 2
    assert "pip install 'car-labeler[cli]'" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_command_names_the_extra_that_it_alone_needs():
    arguments = ["segment", "demo/images", "--labels", "red circle"]
    done = run(HIDE.format(module="torch", arguments=arguments) + RUN)
    assert done.returncode == 2
    assert "pip install 'car-labeler[worker]'" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_unexpected_error_is_a_sentence_and_its_traceback_is_in_a_file(tmp_path: Path):
    broken = "import cli.main; cli.main.app = lambda: 1 / 0; "
    done = run(broken + RUN, TMPDIR=str(tmp_path))
    assert done.returncode == 2
    assert "ZeroDivisionError: division by zero" in done.stderr
    assert "Traceback" not in done.stderr
    [file] = tmp_path.glob("car-error-*.txt")
    assert "Traceback" in file.read_text()
    assert "Traceback" in run(broken + RUN, TMPDIR=str(tmp_path), CAR_TRACEBACK="1").stderr
