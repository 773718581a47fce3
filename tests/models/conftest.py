"""Fixtures of what needs torch and no service."""

FIXTURES = (  # a module comes after those that it imports
    "clips",
    "compiled_kernels",
    "crf_arrays",
)


def pytest_configure(config):
    for name in FIXTURES:
        config.pluginmanager.import_plugin(f"tests.support.{name}")
