"""`python -m deploy.kubernetes [--check]`: write the files of the Helm chart that are made from the code."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from deploy.kubernetes.files import CHART, chart_files


def main(argv: Sequence[str]) -> int:
    """0; with --check, 1 if a file is not as it should be."""
    parser = argparse.ArgumentParser(prog="python -m deploy.kubernetes", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing, and say which files are stale")
    check = parser.parse_args(argv).check
    wanted = chart_files()
    stale = [name for name, text in wanted.items() if not _holds(CHART / name, text)]
    for name in stale:
        if check:
            print(f"{name} is stale: run `python -m deploy.kubernetes`", file=sys.stderr)
        else:
            (CHART / name).parent.mkdir(parents=True, exist_ok=True)
            (CHART / name).write_text(wanted[name])
            print(f"wrote {name}")
    return int(check and bool(stale))


def _holds(path: Path, text: str) -> bool:
    return path.is_file() and path.read_text() == text


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
