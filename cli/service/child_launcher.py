"""Becomes another program that ends with its parent and, where asked, is not root.

Run as a script by path, with nothing but the standard library: `launcher.py PARENT SIGNAL USER|- PROGRAM ARGUMENT...`
(`launched` writes that line). A `preexec_fn` would do the same between fork and exec, where a process with threads may
hang.
"""

import ctypes
import os
import pwd
import signal
import sys
from collections.abc import Sequence

_PR_SET_PDEATHSIG = 1


def launch_command(program: Sequence[str], *, deadly: signal.Signals, user: str | None = None) -> list[str]:
    """The command line that runs `program` as a child of this process, with `deadly` sent when this process is gone."""
    parent = str(os.getpid())
    return [sys.executable, "-I", "-S", __file__, parent, str(int(deadly)), user or "-", *program]


def end_with_parent(parent: int, deadly: int) -> None:
    """Linux: this process gets the signal when `parent` is gone, however that went. Elsewhere: nothing."""
    if not sys.platform.startswith("linux"):
        return
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, deadly, 0, 0, 0)
    if os.getppid() != parent:  # it went before the call
        os.kill(os.getpid(), deadly)


def become(name: str) -> None:
    """Drop root, with all that it may, for the user."""
    entry = pwd.getpwnam(name)
    os.setgroups([])
    os.setgid(entry.pw_gid)
    os.setuid(entry.pw_uid)


def main(arguments: list[str]) -> None:
    parent, deadly, user, *program = arguments
    if user != "-":
        become(user)
    end_with_parent(int(parent), int(deadly))  # last: a change of user forgets it
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    try:
        os.execv(program[0], program)  # noqa: S606 - there is no shell to start
    except OSError as error:
        sys.exit(f"{program[0]} cannot be run: {error.strerror}")


if __name__ == "__main__":
    main(sys.argv[1:])
