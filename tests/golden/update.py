"""Write `expected` of the golden cases anew: `python -m tests.golden.update [name …]`. Review the diff by eye.

What changes here changes for clients: a diff in `client` or `response` belongs into CHANGELOG.md.
"""

import asyncio
import json
import sys
from typing import Any

from tests.golden.errors import ERRORS, refusal
from tests.golden.harness import CASES, Case, load, outcome, play


def main(names: list[str]) -> None:
    """Play the named cases (none: all) and keep what came of them."""
    for path in [*CASES, *ERRORS]:
        if names and path.stem not in names:
            continue
        case = load(path)
        fresh = {**case, "expected": asyncio.run(refusal(case) if path in ERRORS else _outcome(case))}
        path.write_text(json.dumps(fresh, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        print(f"{path.stem}: {'as before' if fresh == case else 'changed'}")


async def _outcome(case: Case) -> dict[str, Any]:
    return await outcome(case, await play(case))


if __name__ == "__main__":
    main(sys.argv[1:])
