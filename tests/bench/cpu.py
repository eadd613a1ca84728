"""CPU time of processes."""

import os
from collections.abc import Mapping
from typing import Any

import psutil


class CpuMeter:
    """CPU seconds that each process took since the meter was made.

    The bench's own are `client`; `others` is what the rest of the machine took: a bench on a busy one says so.
    """

    def __init__(self, pids: Mapping[str, int]) -> None:
        self._processes = {name: psutil.Process(pid) for name, pid in {**pids, "client": os.getpid()}.items()}
        self._before = self._now()

    def seconds(self) -> dict[str, float]:
        """By name."""
        now = self._now()
        # The kernel keeps the two clocks to different grains: "others" can come out a little below nothing.
        return {name: max(0.0, now[name] - self._before[name]) for name in now}

    def _now(self) -> dict[str, float]:
        own = {name: _busy(process.cpu_times()) for name, process in self._processes.items()}
        return {**own, "others": _busy(psutil.cpu_times()) - sum(own.values())}


def _busy(times: Any) -> float:
    return float(times.user + times.system)
