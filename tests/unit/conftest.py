"""Fixtures of the unit tests. They need neither torch nor a service: tests/support/torch_free.py."""

FIXTURES = (  # a module comes after those that it imports
    "compiled_kernels",
)


def pytest_configure(config):
    for name in FIXTURES:
        config.pluginmanager.import_plugin(f"tests.support.{name}")
