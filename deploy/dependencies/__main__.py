"""`python -m deploy.dependencies sbom|audit`

sbom    write build/sbom: a bill of materials (CycloneDX) per image, from the lock files (make sbom)
audit   whether a package that any lock pins is known to be unsafe: exit status 1 if so (part of make check).
        Without the advisories, because nobody answers, it says so and ends with 0.
"""

import argparse
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from functools import partial

from deploy.dependencies import advisories, sbom
from deploy.dependencies.advisories import Answer
from deploy.dependencies.locks import ROOT, all_pins
from deploy.dependencies.verdict import AuditError, judge, load_accepted
from deploy.programs import ProgramError

_NPM_LOCKS = ("deploy/*/js", "examples/*/*", "tests/clients/js")


def write_sboms() -> int:
    """One per image."""
    for image in sbom.IMAGES:
        print(sbom.write(image).relative_to(ROOT))
    return 0


def audit() -> int:
    """Say what was found, what is accepted, and what could not be asked."""
    accepted = load_accepted()
    pins = all_pins()
    questions: dict[str, Callable[[], Answer]] = {f"{len(pins)} Python packages": partial(advisories.of_python, pins)}
    for pattern in _NPM_LOCKS:
        for lock in sorted(ROOT.glob(f"{pattern}/package-lock.json")):
            questions[str(lock.relative_to(ROOT))] = partial(advisories.of_npm, lock)
    with ThreadPoolExecutor() as pool:
        answers = dict(zip(questions, pool.map(lambda ask: ask(), questions.values()), strict=True))
    for what, answer in answers.items():
        if answer.missing:
            print(f"not audited: {what}: there are no advisories to be had here: {answer.missing}")
    found = [finding for answer in answers.values() for finding in answer.findings]
    verdict = judge(found, accepted, datetime.now(UTC).date())
    for note in verdict.notes:
        print(note)
    for fault in verdict.faults:
        print(f"error: {fault}", file=sys.stderr)
    print(f"audited: {', '.join(what for what, answer in answers.items() if not answer.missing) or 'nothing'}")
    return 1 if verdict.faults else 0


def main() -> int:
    """0, or 1 where something is wrong."""
    commands = {"sbom": write_sboms, "audit": audit}
    parser = argparse.ArgumentParser(
        prog="python -m deploy.dependencies", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("command", choices=commands)
    try:
        return commands[parser.parse_args().command]()
    except (AuditError, ProgramError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
