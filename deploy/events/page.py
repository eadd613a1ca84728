"""The AsyncAPI documents as pages for a browser, by AsyncAPI's own component: one file each, which needs no network."""

import json
import sys
from collections.abc import Iterator
from html import escape
from pathlib import Path

import yaml

from deploy import npm
from deploy.events.documents import CONSUMERS, DOCS, INTERNAL
from deploy.events.release import ROOT

JS = Path(__file__).parent / "js"
FOLDER = ROOT / "build" / "asyncapi"
PAGES = {"index.html": CONSUMERS, "internal.html": INTERNAL}
_COMPONENT = Path("@asyncapi/react-component")
_SCRIPT = _COMPONENT / "browser" / "standalone" / "index.js"
_STYLE = _COMPONENT / "styles" / "default.min.css"
_SHOWN = {"sidebar": True, "errors": True, "schemas": True}

_PAGE = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>body {{ margin: 0; font-family: system-ui, sans-serif }} {style}</style>
</head>
<body>
<div id="asyncapi"></div>
<script>{script}</script>
<script>
AsyncApiStandalone.render({{ schema: {document}, config: {{ show: {shown} }} }}, document.getElementById('asyncapi'))
</script>
</body>
</html>
"""


def write() -> Iterator[Path]:
    """Write the pages. Raises NpmError where npm is missing or cannot install."""
    modules = npm.installed(JS, lambda: print("installing AsyncAPI's packages ...", file=sys.stderr))
    script, style = ((modules / part).read_text(encoding="utf-8") for part in (_SCRIPT, _STYLE))
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, source in PAGES.items():
        path = FOLDER / name
        path.write_text(page((DOCS / source).read_text(encoding="utf-8"), script, style), encoding="utf-8")
        yield path


def page(document: str, script: str, style: str) -> str:
    """One page that holds the document (YAML), the component and its style."""
    read = yaml.safe_load(document)
    return _PAGE.format(
        title=escape(read["info"]["title"]),
        style=style,
        script=_inline(script),
        document=_inline(json.dumps(read, ensure_ascii=False)),
        shown=json.dumps(_SHOWN),
    )


def _inline(script: str) -> str:
    """So that nothing in it ends the element that it stands in."""
    return script.replace("</script", "<\\/script").replace("<!--", "<\\!--")
