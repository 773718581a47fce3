"""Fixtures of the drills: PostgreSQL, Redis and S3 under real workers."""

FIXTURES = (  # a module comes after those that it imports
    "services",
    "rows",
    "label_studio_rows",
    "outbox",
)


def pytest_configure(config):
    for name in FIXTURES:
        config.pluginmanager.import_plugin(f"tests.support.{name}")
