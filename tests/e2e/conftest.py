"""Fixtures of the whole service."""

FIXTURES = (  # a module comes after those that it imports
    "services",
)


def pytest_configure(config):
    for name in FIXTURES:
        config.pluginmanager.import_plugin(f"tests.support.{name}")
