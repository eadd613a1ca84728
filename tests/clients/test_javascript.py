"""Libraries from npm, unmodified, on Node.js: each test of tests/clients/js/*.test.mjs is a test here."""

import asyncio
import json
import re
from pathlib import Path

import pytest

from tests.clients import nodejs
from tests.clients.scene import Scene

_TEST = re.compile(r"^test\((?P<quote>['\"])(?P<name>.+?)(?P=quote), ", re.MULTILINE)
_FILE_S = 120.0
CASES = [
    (path.name, match["name"])
    for path in sorted(nodejs.FOLDER.glob("*.test.mjs"))
    for match in _TEST.finditer(path.read_text())
]

Results = dict[str, dict[str, str | None]]
"""File → test → what went wrong, None where nothing did."""


@pytest.fixture(scope="session")
def results() -> Results:
    """Filled file by file, as tests ask."""
    return {}


@pytest.mark.parametrize(("file", "name"), CASES, ids=lambda value: str(value).removesuffix(".test.mjs"))
async def test_case(file: str, name: str, node: Path, scene: Scene, results: Results) -> None:
    if file not in results:
        results[file] = await carried_out(node, file, scene)
    assert name in results[file], f"{file} did not carry '{name}' out"
    failure = results[file][name]
    assert failure is None, failure


async def test_every_file_has_tests_and_no_name_twice() -> None:
    assert {file for file, _ in CASES} == {path.name for path in nodejs.FOLDER.glob("*.test.mjs")}
    assert len(set(CASES)) == len(CASES)


@pytest.mark.parametrize("transport", ["sse", "json", "chat", "websocket"])
async def test_leaving_frees_the_slot(transport: str, node: Path, scene: Scene) -> None:
    process = await nodejs.started(node, "leaving.mjs", transport, scene=scene.described())
    assert process.stdout is not None
    try:
        async with asyncio.timeout(30):
            line = await process.stdout.readline()
        assert line == b"left\n", (await process.communicate())[1].decode()
        await scene.until_idle()
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def carried_out(node: Path, file: str, scene: Scene) -> dict[str, str | None]:
    """What became of the tests of a file. Raises AssertionError with what Node.js said, where it said no results."""
    options = ["--test", "--test-reporter=./reporter.mjs", "--test-reporter-destination=stdout", "--test-timeout=60000"]
    process = await nodejs.started(node, *options, file, scene=scene.described())
    try:
        async with asyncio.timeout(_FILE_S):
            out, err = await process.communicate()
    except TimeoutError:
        process.kill()
        await process.wait()
        raise AssertionError(f"{file} did not end within {_FILE_S:g} s") from None
    rows = [json.loads(line) for line in out.decode().splitlines() if line.startswith("{")]
    assert rows, f"no results of {file}:\n{out.decode()}\n{err.decode()}"
    return {row["name"]: None if row["passed"] else row["detail"] or "it was skipped" for row in rows}
