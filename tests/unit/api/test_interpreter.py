"""Python's own settings: those of a fresh process, for they cannot be taken back."""

import subprocess
import sys

TOLD = """
import gc, sys
begun = gc.get_freeze_count()  # Python's own, in some versions
import api.__main__
before = (gc.get_freeze_count() - begun, sys.getswitchinterval())
from api.gc_tuning import tune_interpreter
tune_interpreter()
print(*before, gc.get_freeze_count() > 10_000, len(gc.get_objects()) < 1_000, sys.getswitchinterval() <= 0.001)
"""


def test_what_stands_is_not_collected_again_and_threads_take_turns_often_once_main_says_so():
    done = subprocess.run([sys.executable, "-c", TOLD], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["0", "0.005", "True", "True", "True"]
