"""The documents under docs/ that follow from the registry, as they are to be and as they are."""

import shutil
from collections.abc import Iterator
from pathlib import Path

from deploy.events import asyncapi, schemas
from deploy.events.release import ROOT

DOCS = ROOT / "docs"
SCHEMAS = DOCS / "schemas"
CONSUMERS, INTERNAL = "asyncapi.yaml", "asyncapi-internal.yaml"


def wanted() -> dict[str, str]:
    """Path below docs → content."""
    return {
        CONSUMERS: asyncapi.written(asyncapi.consumers_document()),
        INTERNAL: asyncapi.written(asyncapi.internal_document()),
        **{f"{SCHEMAS.name}/{path}": text for path, text in schemas.files().items()},
    }


def found() -> dict[str, str]:
    """The same, as it lies there."""
    paths = [DOCS / CONSUMERS, DOCS / INTERNAL, *SCHEMAS.rglob("*.json")]
    return {str(path.relative_to(DOCS)): path.read_text(encoding="utf-8") for path in paths if path.exists()}


def write() -> Iterator[Path]:
    """Write them all, and nothing stays of what the registry no longer has."""
    made = wanted()  # which may fail, and then what lies there stays
    shutil.rmtree(SCHEMAS, ignore_errors=True)
    for name, text in made.items():
        path = DOCS / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        if path.parent == DOCS:
            yield path
    yield SCHEMAS
