"""Start another program in this process: it ends with its parent and, on request, is not root.

It runs as a script by its path, with the standard library only: `child_launcher.py PARENT SIGNAL USER|- PROGRAM
ARGUMENT...` (see `launch_command`). A `preexec_fn` would do the same between fork and exec, where a process with
threads may hang.
"""

import ctypes
import os
import pwd
import signal
import sys
from collections.abc import Sequence

_PR_SET_PDEATHSIG = 1


def launch_command(program: Sequence[str], *, deadly: signal.Signals, user: str | None = None) -> list[str]:
    """Return the command that runs `program` as a child of this process and sends it `deadly` if this process ends."""
    parent = str(os.getpid())
    return [sys.executable, "-I", "-S", __file__, parent, str(int(deadly)), user or "-", *program]


def end_with_parent(parent: int, deadly: int) -> None:
    """On Linux, have this process receive the signal when `parent` ends in any way."""
    if not sys.platform.startswith("linux"):
        return
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, deadly, 0, 0, 0)
    if os.getppid() != parent:  # it ended before the call
        os.kill(os.getpid(), deadly)


def become(name: str) -> None:
    """Give up root and all its rights, and become the user."""
    entry = pwd.getpwnam(name)
    os.setgroups([])
    os.setgid(entry.pw_gid)
    os.setuid(entry.pw_uid)


def main(arguments: list[str]) -> None:
    parent, deadly, user, *program = arguments
    if user != "-":
        become(user)
    end_with_parent(int(parent), int(deadly))  # last, because a change of user resets it
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    try:
        os.execv(program[0], program)  # noqa: S606 - there is no shell to start
    except OSError as error:
        sys.exit(f"{program[0]} cannot be run: {error.strerror}")


if __name__ == "__main__":
    main(sys.argv[1:])
