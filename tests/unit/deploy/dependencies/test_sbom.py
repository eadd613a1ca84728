"""A bill of materials names every package of an image's locks with its hashes, the same way each time."""

import json
from pathlib import Path

from deploy.dependencies.locks import LOCKS, read_lock
from deploy.dependencies.sbom import IN_IMAGES, write


def test_the_same_locks_give_the_same_bill(tmp_path: Path) -> None:
    first, second = write("tools", tmp_path / "a"), write("tools", tmp_path / "b")  # cyclonedx-py validates both
    assert first.read_bytes() == second.read_bytes()
    bill = json.loads(first.read_text())
    assert (bill["bomFormat"], bill["metadata"]["component"]["name"]) == ("CycloneDX", "chatmesh")
    listed = {component["name"]: component for component in bill["components"]}
    pinned = {pin.name: pin for pin in read_lock(LOCKS / "tools.lock") if pin.wanted_on(IN_IMAGES)}
    assert listed.keys() == pinned.keys()
    client = listed["aiokafka"]
    assert client["purl"] == f"pkg:pypi/aiokafka@{pinned['aiokafka'].version}"
    hashes = {one["content"] for reference in client["externalReferences"] for one in reference["hashes"]}
    assert hashes and all(f"sha256:{value}" in pinned["aiokafka"].text for value in hashes)
