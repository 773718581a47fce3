"""Fixtures of the service that Label Studio talks to."""

FIXTURES = (  # a module comes after those that it imports
    "clips",
    "services",
    "api_client",
    "rows",
    "label_studio_rows",
    "outbox",
    "painter",
    "recorded",
)


def pytest_configure(config):
    for name in FIXTURES:
        config.pluginmanager.import_plugin(f"tests.support.{name}")
