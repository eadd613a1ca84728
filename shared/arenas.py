"""glibc's malloc, kept from holding the peak of every thread."""

import ctypes
import os

_M_ARENA_MAX = -8  # malloc.h
_ARENAS = 2
_OPERATORS_CHOICE = ("MALLOC_ARENA_MAX", "GLIBC_TUNABLES")


def share_arenas() -> None:
    """Let all threads that start from now on share two of glibc's arenas; elsewhere, or where the operator has chosen
    by glibc's own variables, do nothing.

    glibc gives every thread an arena, up to eight per core, and each keeps the peak of what it ever held. Counting a
    long prompt takes tens of megabytes for a moment, on any of up to 32 threads: measured with 600 prompts of up to
    200 KB, a process grows to 720 MB and goes on; with two arenas it stays at 250 MB.
    """
    if any(name in os.environ for name in _OPERATORS_CHOICE) or not _is_glibc():
        return
    ctypes.CDLL(None).mallopt(_M_ARENA_MAX, _ARENAS)


def _is_glibc() -> bool:
    try:
        return (os.confstr("CS_GNU_LIBC_VERSION") or "").startswith("glibc")
    except (AttributeError, ValueError):  # Windows has no confstr, macOS and musl no such name
        return False
