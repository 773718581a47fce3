"""What every test has: shape checks, its environment and threads as they were, and no way out of this machine.

Fixtures that need torch, PostgreSQL, Redis or S3 are not here: the conftest of each folder names those that it has.
"""

import os
import sys
from importlib.util import find_spec

if "PYTEST_XDIST_WORKER" in os.environ:
    # Before torch is loaded, and for processes that tests start: those that run side by side share the cores.
    os.environ.setdefault("OMP_NUM_THREADS", "1")

# Without credentials, S3 clients would ask the metadata service of a cloud's machine for them.
os.environ.setdefault("AWS_EC2_METADATA_DISABLED", "true")

import pytest
from jaxtyping import install_import_hook

from car.errors import CarError

install_import_hook("worker.segmenter", "beartype.beartype").__enter__()

pytest_plugins = [  # a plugin comes after those that it imports
    "pytester",
    "tests.support.network",
    "tests.support.images",
    "tests.support.picture_server",
    "tests.support.sources",
    "tests.support.fake_label_studio",
]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call():
    """Skip comparisons with pydensecrf where it could not be compiled."""
    try:
        return (yield)
    except CarError as error:
        if error.code != "crf_reference_missing" or find_spec("pydensecrf") is not None:
            raise
        pytest.skip(str(error))


@pytest.fixture(autouse=True)
def _the_environment_as_before():
    """Commands that tests run in this process set variables for the processes that they start."""
    before = dict(os.environ)
    yield
    for name in os.environ.keys() - before.keys() - {"PYTEST_CURRENT_TEST"}:
        del os.environ[name]
    os.environ.update({name: value for name, value in before.items() if os.environ.get(name) != value})


@pytest.fixture(autouse=True)
def _as_many_threads_as_before():
    """Benchmarks set the number of torch's threads for their process; the last bits of a score depend on it."""
    before = _torch_threads()
    yield
    if before is not None and _torch_threads() != before:
        sys.modules["torch"].set_num_threads(before)


def _torch_threads():
    torch = sys.modules.get("torch")
    return torch and torch.get_num_threads()
