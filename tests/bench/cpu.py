"""CPU time of processes and what they started."""

import os
from collections.abc import Mapping

import psutil


class CpuMeter:
    """CPU seconds that each process took since the meter was made; the bench's own are `client`."""

    def __init__(self, pids: Mapping[str, int]) -> None:
        self._processes = {name: psutil.Process(pid) for name, pid in {**pids, "client": os.getpid()}.items()}
        self._before = self._now()

    def seconds(self) -> dict[str, float]:
        """By name."""
        now = self._now()
        return {name: now[name] - self._before[name] for name in now}

    def _now(self) -> dict[str, float]:
        return {name: _of(process) for name, process in self._processes.items()}


def _of(process: psutil.Process) -> float:
    """User and system time; children that ended are counted by the kernel, those that live are not ours to count
    twice: no process of a system has any."""
    times = process.cpu_times()
    return float(times.user + times.system)
