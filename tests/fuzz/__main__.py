"""`make fuzz`: the suite of tests/fuzz with as many inputs as you like.

python -m tests.fuzz --examples 200000 --seed 7
"""

import argparse
import os
import sys

import pytest

from tests.fuzz.test_fuzz import KINDS


def main() -> int:
    parser = argparse.ArgumentParser(prog="make fuzz", description=__doc__)
    whole = sum(kind.count for kind in KINDS.values())
    parser.add_argument("--examples", type=int, default=10 * whole, help="inputs in all (%(default)s)")
    parser.add_argument("--seed", type=int, default=None, help="repeat a run (random)")
    known, others = parser.parse_known_args()
    number = int.from_bytes(os.urandom(3)) if known.seed is None else known.seed
    print(f"{known.examples:,} inputs with seed {number}", flush=True)
    # pytest loads the tests once more: they learn it from the environment.
    os.environ |= {"CHATMESH_FUZZ_SCALE": str(known.examples / whole), "CHATMESH_FUZZ_SEED": str(number)}
    timeout_s = max(300, known.examples // 20)
    return int(pytest.main(["tests/fuzz", "-rP", f"--timeout={timeout_s}", *others]))


if __name__ == "__main__":
    sys.exit(main())
