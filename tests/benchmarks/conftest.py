import json

import pytest
import torch
from typer.testing import CliRunner

from benchmarks.__main__ import app
from cli.main import app as car


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    """CPU seconds count waiting threads too."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def measure(tmp_path):
    """Run a benchmark of `python -m benchmarks`; returns its JSON and its output."""
    return lambda *arguments: _run(app, tmp_path, arguments)


@pytest.fixture
def car_bench(tmp_path):
    """Run a benchmark of `car bench`; returns its JSON and its output."""
    return lambda *arguments: _run(car, tmp_path, ("bench", *arguments))


def _run(application, folder, arguments):
    file = folder / "new" / "figures.json"
    done = CliRunner().invoke(application, [*arguments, "--json", str(file)], env={"COLUMNS": "150"})
    assert done.exit_code == 0, done.output
    return json.loads(file.read_text()), done.output
