"""`python -m deploy.timed --title NAME -- COMMAND...` runs a suite and keeps its minutes; `--report` prints them.

The minutes lie in a file below .pytest_cache until the report, which `make test` prints at its end.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

_FILE = Path(".pytest_cache/chatmesh-minutes.json")
_PYTEST_NO_TESTS = 5


def main(argv: list[str]) -> int:
    """Exit code of the suite. A suite in which no test ran has failed."""
    parser = argparse.ArgumentParser(prog="deploy.timed")
    parser.add_argument("--title")
    parser.add_argument("--report", action="store_true")
    parser.add_argument("command", nargs="*")
    options = parser.parse_args(argv)
    if options.report:
        print(report(_load()))
        _FILE.unlink(missing_ok=True)
        return 0
    return _run(options.title, options.command)


def _run(title: str, command: list[str]) -> int:
    print(f"\n--- {title}: {' '.join(command)}", flush=True)
    begin = time.monotonic()
    code = subprocess.run(command, check=False).returncode
    _FILE.parent.mkdir(exist_ok=True)
    _FILE.write_text(json.dumps(_load() | {title: time.monotonic() - begin}))
    if code == _PYTEST_NO_TESTS:
        print(f"{title}: no test ran", file=sys.stderr)
    return code


def _load() -> dict[str, float]:
    return dict(json.loads(_FILE.read_text())) if _FILE.exists() else {}


def report(seconds: dict[str, float]) -> str:
    """A table of minutes per suite."""
    rows = [*seconds.items(), ("together", sum(seconds.values()))]
    return "\n".join(["", "minutes per suite", *(f"  {title:<32} {took / 60:6.1f}" for title, took in rows)])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
