"""A plugin under which imports of torch, and of what starts services, fail. `make test-fast` uses it for tests/unit."""

import sys

BLOCKED = {
    "torch": "tests/models",
    "torchvision": "tests/models",
    "transformers": "tests/models",
    "segment_anything": "tests/models",
    "cli.embedded.postgres": "tests/integration",
    "cli.embedded.redis": "tests/integration",
    "cli.embedded.s3": "tests/integration",
    "tests.support.services": "tests/integration",
}
BENCHMARKS = {f"test_{name}.py" for name in ("bench_compare", "counting", "crf_cost", "floor", "sam_cost", "stream")}
"""They move to tests/benchmarks."""


class NotInUnitTestsError(ImportError):
    """tests/unit needs neither torch nor a service."""


class _Blocker:
    @staticmethod
    def find_spec(name, _path=None, _target=None):
        if name in BLOCKED:
            raise NotInUnitTestsError(f"unit tests do not import {name}: move the test to {BLOCKED[name]}")


def pytest_ignore_collect(collection_path):
    return True if collection_path.name in BENCHMARKS else None


loaded = BLOCKED.keys() & sys.modules.keys()
assert not loaded, f"imported before the plugin: {sorted(loaded)}"
sys.meta_path.insert(0, _Blocker)
