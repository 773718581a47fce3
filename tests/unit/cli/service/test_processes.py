"""The processes of `car up` are started again, given up, quoted and ended with everything they began."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cli.errors import ProcessFailedError
from cli.service.processes import Processes

ORPHANS = """
import os, sys, time
from pathlib import Path
from cli.service.processes import Processes
processes = Processes(Path(sys.argv[1]), os.environ, print)
processes.start("sleeper", ["/bin/sleep", "600"])
print(processes.pid("sleeper"), flush=True)
time.sleep(600)
"""


def is_alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def watch_until(processes, condition, seconds=15):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        processes.watch()
        time.sleep(0.02)


@pytest.fixture
def said():
    return []


@pytest.fixture
def processes(tmp_path, said):
    made = Processes(tmp_path, os.environ, said.append, first_delay=0.02)
    yield made
    made.stop(seconds=1)


def python(code):
    return [sys.executable, "-c", code]


def test_one_that_was_killed_is_started_again(processes, said):
    processes.start("sleeper", ["/bin/sleep", "600"])
    first = processes.pid("sleeper")
    os.kill(first, 9)
    watch_until(processes, lambda: processes.pid("sleeper") not in (None, first))
    assert "sleeper died (signal SIGKILL); it starts again in 0.02 s" in said[0]


def test_one_that_dies_again_and_again_ends_the_watch_with_its_last_words(processes, said):
    processes.start("weak", python("import sys; sys.exit('no such model')"))
    with pytest.raises(
        ProcessFailedError, match=r"(?s)weak died 5 times within a minute \(exit code 1\).*no such model"
    ):
        watch_until(processes, lambda: False)
    assert len(said) == 4


def test_only_warnings_and_worse_reach_the_terminal(processes, said, tmp_path):
    lines = ['{"event": "all well", "level": "info"}', '{"event": "reaped", "level": "warning"}', "ERROR:    broken"]
    processes.start("talker", python(f"print({chr(10).join(lines)!r}); import time; time.sleep(600)"))
    watch_until(processes, lambda: len(said) == 2)
    assert said == [f"talker: {lines[1]}", f"talker: {lines[2]}"]
    assert (tmp_path / "talker.log").read_text().splitlines() == lines


def test_stopping_asks_first_and_kills_what_does_not_listen_with_its_children(processes, tmp_path):
    polite = (
        "import signal, sys, time; signal.signal(15, lambda *_: sys.exit(print('bye'))); print('on'); time.sleep(600)"
    )
    deaf = (
        "import signal, subprocess, time; signal.signal(15, signal.SIG_IGN); "
        "print(subprocess.Popen(['/bin/sleep', '600']).pid); time.sleep(600)"
    )
    processes.start("polite", python(polite))
    processes.start("deaf", python(deaf))
    logs = [tmp_path / "polite.log", tmp_path / "deaf.log"]
    watch_until(processes, lambda: all(log.read_text().endswith("\n") for log in logs))
    assert processes.stop(seconds=0.5) == ["deaf"]
    assert logs[0].read_text().splitlines() == ["on", "bye"]
    assert not is_alive(int(logs[1].read_text()))


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="other systems tell no child that its parent died")
def test_children_end_with_a_killed_parent(tmp_path):
    with subprocess.Popen([sys.executable, "-c", ORPHANS, str(tmp_path)], stdout=subprocess.PIPE) as parent:
        child = int(parent.stdout.readline())
        assert is_alive(child)
        parent.kill()
    deadline = time.monotonic() + 10
    while is_alive(child):
        assert time.monotonic() < deadline
        time.sleep(0.02)
