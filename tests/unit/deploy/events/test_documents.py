"""What lies under docs/ is what the registry says, and what the registry says is complete."""

import json
import re
from pathlib import Path

import pytest
import yaml

from deploy.events import documents
from deploy.events.asyncapi import consumers_document, internal_document
from deploy.events.page import page
from deploy.events.release import ROOT
from deploy.events.schemas import type_names
from shared.topics import REGISTRY, Topic, Visibility

PUBLIC = [topic for topic in REGISTRY.values() if topic.visibility is Visibility.PUBLIC]


def test_the_documents_are_those_of_the_registry() -> None:
    wanted, found = documents.wanted(), documents.found()
    stale = sorted(name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name))
    assert stale == [], "write them again: make asyncapi"


def test_they_are_written_alike_every_time() -> None:
    assert documents.wanted() == documents.wanted()


def test_what_cannot_be_made_leaves_what_lies_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "schemas").mkdir()
    (tmp_path / "schemas" / "one.json").write_text("{}")
    monkeypatch.setattr(documents, "DOCS", tmp_path)
    monkeypatch.setattr(documents, "SCHEMAS", tmp_path / "schemas")
    monkeypatch.setattr(documents, "wanted", lambda: pytest.fail("a record without an example"))
    with pytest.raises(pytest.fail.Exception):
        list(documents.write())
    assert set(documents.found()) == {"schemas/one.json"}


def test_consumers_are_told_of_public_topics_and_of_nothing_that_only_internal_ones_carry() -> None:
    document = consumers_document()
    assert {channel["address"] for channel in document["channels"].values()} == {topic.name for topic in PUBLIC}
    assert {operation["action"] for operation in document["operations"].values()} == {"send"}
    assert "Tokens" not in document["components"]["schemas"]


def test_the_internal_document_tells_every_part_of_every_service() -> None:
    document = internal_document()
    assert [channel["address"] for channel in document["channels"].values()][: len(PUBLIC)] == [t.name for t in PUBLIC]
    assert {channel["address"] for channel in document["channels"].values()} == set(REGISTRY)
    parts = sum(len(topic.producers) + len(topic.consumers) for topic in REGISTRY.values())
    assert len(document["operations"]) == parts


@pytest.mark.parametrize("topic", REGISTRY.values(), ids=lambda topic: topic.name)
def test_a_channel_says_in_words_what_its_readers_may_rely_on(topic: Topic) -> None:
    channel = internal_document()["channels"][topic.name.replace(".", "_")]
    for promise in (topic.ordering, topic.delivery):
        assert promise and promise in channel["description"]
    for word in ("Visibility", "Retention", "Compatibility", "Partition and key"):
        assert f"**{word}.**" in channel["description"]
    assert set(channel["messages"]) == set(type_names(topic))


def test_a_type_names_one_kind_of_record_whatever_its_topic() -> None:
    names: dict[str, set[str]] = {}
    for topic in REGISTRY.values():
        for tag, name in type_names(topic).items():
            names.setdefault(tag, set()).add(name)
    assert {tag: found for tag, found in names.items() if len(found) > 1} == {}


def test_a_page_holds_the_document_and_nothing_in_it_ends_its_script() -> None:
    text = yaml.safe_dump({"info": {"title": "a <title>", "description": "</script><!-- x"}})
    made = page(text, script="var component = '</script>'", style="p {}")
    assert made.count("</script>") == 2
    assert "<title>a &lt;title&gt;</title>" in made
    held = made.split("schema: ")[1].split(", config: ")[0].replace("<\\/", "</").replace("<\\!", "<!")
    assert json.loads(held)["info"]["description"] == "</script><!-- x"


GUIDES = [ROOT / "docs/events.md", ROOT / "docs/releases/README.md", *ROOT.glob("examples/consumers/*/README.md")]


@pytest.mark.parametrize("guide", GUIDES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(guide: Path) -> None:
    links = [link for link in re.findall(r"\]\(([^)#]+)", guide.read_text()) if "://" not in link]
    assert links
    assert [link for link in links if not (guide.parent / link).exists()] == []
