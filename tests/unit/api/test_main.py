"""The settings of the interpreter, in a fresh process because they cannot be undone."""

import subprocess
import sys

PROGRAM = """
import gc, sys
begun = gc.get_freeze_count()  # Python's own, in some versions
from api.__main__ import tune_interpreter
before = (gc.get_freeze_count() - begun, sys.getswitchinterval())
tune_interpreter()
print(*before, gc.get_freeze_count() > 10_000, len(gc.get_objects()) < 1_000, sys.getswitchinterval() <= 0.001)
"""


def test_loaded_objects_are_frozen_and_threads_switch_often_once_main_says_so():
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["0", "0.005", "True", "True", "True"]
