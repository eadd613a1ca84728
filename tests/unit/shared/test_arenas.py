"""Threads share glibc's arenas, so that a process does not keep the peak of each."""

import os
import subprocess
import sys

import pytest

from shared.arenas import _is_glibc

pytestmark = pytest.mark.skipif(not _is_glibc(), reason="malloc is not glibc's")

ARENAS_OF_EIGHT_THREADS = """
import ctypes, os, sys, threading
from shared.arenas import share_arenas

if sys.argv[1] == "shared":
    share_arenas()
libc = ctypes.CDLL(None)
libc.malloc.restype = libc.fopen.restype = ctypes.c_void_p
libc.malloc.argtypes = [ctypes.c_size_t]
libc.malloc_info.argtypes = [ctypes.c_int, ctypes.c_void_p]
libc.fclose.argtypes = [ctypes.c_void_p]
together = threading.Barrier(8)

def hold():
    libc.malloc(100_000)
    together.wait()

threads = [threading.Thread(target=hold) for _ in range(8)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
out = libc.fopen(b"/dev/stdout", b"w")
libc.malloc_info(0, out)
libc.fclose(out)
"""


def arenas(how: str, **env: str) -> int:
    """How many arenas eight threads make that hold memory at the same time."""
    kept = {name: value for name, value in os.environ.items() if name not in ("MALLOC_ARENA_MAX", "GLIBC_TUNABLES")}
    told = subprocess.run(
        [sys.executable, "-c", ARENAS_OF_EIGHT_THREADS, how],
        env={**kept, "PYTHONPATH": ".", **env},
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    )
    return told.stdout.count("<heap ")


def test_threads_share_two() -> None:
    assert arenas("shared") == 2


def test_without_it_each_has_its_own() -> None:
    """Else the test above would show nothing."""
    assert arenas("alone") > 4


def test_the_operators_choice_stands() -> None:
    assert arenas("shared", MALLOC_ARENA_MAX="1") == 1
