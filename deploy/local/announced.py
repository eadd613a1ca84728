"""What the run that holds a data folder tells other programs on this machine."""

from pathlib import Path

from deploy.local.holding import holder_of


def running_environment(data_dir: Path) -> dict[str, str]:
    """The variables by which a program reaches the broker of the run that holds this data folder; empty if none does,
    or its broker is not up yet."""
    holder = holder_of(run_lock(data_dir))
    return {} if holder is None else dict(holder["environment"])


def running_address(data_dir: Path) -> str | None:
    """Where the gateway of the run that holds this data folder listens, or will; None if there is no run."""
    holder = holder_of(run_lock(data_dir))
    return None if holder is None else str(holder["address"])


def run_lock(data_dir: Path) -> Path:
    """The file that a run holds, and in which its words stand."""
    return data_dir / "run.lock"
