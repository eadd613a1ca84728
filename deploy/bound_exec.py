"""`python bound_exec.py PARENT_PID PROGRAM [ARGUMENT...]`: become PROGRAM, and die when the parent dies.

The wish to be killed with one's parent (prctl(2), PR_SET_PDEATHSIG) survives exec. A wrapper can say it
safely, while a `preexec_fn` would run Python in the fork of a process that has threads. Linux only; elsewhere
this is a plain exec. Imports nothing of the project: it starts in a few milliseconds.
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_EXIT_CANNOT_EXECUTE = 127  # as shells have it


def main(argv: list[str]) -> int:
    parent_pid, program = int(argv[0]), argv[1:]
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent_pid:  # it died before prctl: no signal will come
            return 1
    try:
        os.execvp(program[0], program)
    except OSError as error:
        print(f"cannot execute {program[0]}: {error.strerror}", file=sys.stderr)
        return _EXIT_CANNOT_EXECUTE


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
