"""AsyncAPI's own parser reads our documents, and its component makes pages of them."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from deploy import npm
from deploy.events.documents import CONSUMERS, DOCS, INTERNAL
from deploy.events.page import JS, write
from shared.topics import REGISTRY, Visibility

_PARSE_S = 60.0
_NOT_THE_LATEST = "asyncapi-latest-version"  # 3.0 is what most tools read


@pytest.fixture(scope="module")
async def said(node: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What the parser says of our documents, and of one whose channel has no such message."""
    npm.installed(JS)
    broken = tmp_path_factory.mktemp("asyncapi") / "broken.yaml"
    broken.write_text((DOCS / CONSUMERS).read_text().replace("messages/responses_events_delta'", "messages/nothing'"))
    process = await asyncio.create_subprocess_exec(
        str(node), "check.mjs", str(DOCS / CONSUMERS), str(DOCS / INTERNAL), str(broken),
        cwd=JS, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    async with asyncio.timeout(_PARSE_S):
        out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    return [json.loads(line) for line in out.decode().splitlines()]


@pytest.mark.parametrize("document", [CONSUMERS, INTERNAL])
def test_the_parser_finds_nothing_wrong_and_every_channel(document: str, said: list[dict[str, Any]]) -> None:
    ours = [line for line in said if Path(line["file"]).name == document]
    assert [line for line in ours if "code" in line and line["code"] != _NOT_THE_LATEST] == []
    (read,) = (line["read"] for line in ours if "read" in line)
    topics = [t for t in REGISTRY.values() if document == INTERNAL or t.visibility is Visibility.PUBLIC]
    assert set(read["channels"]) == {topic.name for topic in topics}
    assert read["messages"] >= len({tag for topic in topics for tag in topic.record_types})


def test_the_parser_finds_what_is_wrong(said: list[dict[str, Any]]) -> None:
    assert any(line.get("severity") == 0 for line in said if Path(line["file"]).name == "broken.yaml")


def test_pages_are_made(node: Path) -> None:
    for path in write():
        text = path.read_text(encoding="utf-8")
        assert text.count("</script>") == 2 and "AsyncApiStandalone.render" in text and "responses.events" in text
