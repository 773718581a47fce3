"""Unit tests are quick to collect, because they import neither torch nor a service."""

import subprocess
import sys

from tests.support.paths import ROOT


def collect(*paths):
    """Collect tests in another process, where imports of torch and of what starts services fail."""
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "tests.support.torch_free"]
    return subprocess.run([*command, *paths], cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)


def test_unit_tests_import_neither_torch_nor_a_service():
    done = collect("tests/unit")
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_unit_test_that_imports_one_of_them_is_refused(tmp_path):
    modules = ["torch", "worker.models.weights", "cli.embedded.postgres", "tests.support.services"]
    for module in modules:
        (tmp_path / f"test_{module.replace('.', '_')}.py").write_text(f"import {module}\n\ndef test_nothing(): pass\n")
    done = collect(tmp_path)
    assert done.returncode != 0
    assert f"{len(modules)} errors" in done.stdout
    assert "unit tests do not import torch: move the test to tests/models" in done.stdout
    assert "unit tests do not import tests.support.services: move the test to tests/integration" in done.stdout
