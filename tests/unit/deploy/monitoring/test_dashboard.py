"""The dashboard: written from its panels, readable by Grafana and Prometheus, about metrics that there are."""

import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy.monitoring.dashboard import PATH, ROWS, of_chosen_mesh, overview, rendered
from deploy.monitoring.panels import Panel
from shared.telemetry.metrics import DECLARED
from tests.support.tools import required_tool
from tests.unit.deploy.monitoring.files import MONITORING, recorded
from tests.unit.deploy.monitoring.promql import metric_of, names_in
from tests.unit.deploy.monitoring.test_rules import undeclared

PANELS = [panel for row in ROWS for panel in row.panels]
QUERIES = [query for panel in PANELS for query in panel.queries]


def by_title(panel: Panel) -> str:
    return panel.title


def test_the_file_is_what_the_panels_say() -> None:
    assert PATH.read_text() == rendered(), "run `make dashboard`"


@pytest.mark.parametrize("panel", PANELS, ids=by_title)
def test_panels_name_only_what_is_declared(panel: Panel) -> None:
    assert [undeclared(query.expr) for query in panel.queries] == [[] for _ in panel.queries]
    assert panel.meaning.endswith("."), "every panel says what it shows"


def test_prometheus_reads_every_query(tmp_path: Path) -> None:
    promtool = required_tool("promtool")
    rules = [
        {"record": f"panel:query{number}:parsed", "expr": expr.replace("$__rate_interval", "1m")}
        for number, expr in enumerate(expr for panel in overview()["panels"] for expr in _expressions(panel))
    ]
    path = tmp_path / "queries.yaml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}))
    done = subprocess.run([promtool, "check", "rules", path], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(QUERIES)} rules found" in done.stdout


def _expressions(panel: dict[str, Any]) -> list[str]:
    return [target["expr"] for target in panel.get("targets", ())]


def test_every_series_is_of_the_chosen_mesh() -> None:
    for query in QUERIES:
        chosen = of_chosen_mesh(query.expr)
        assert all(f'{series}{{mesh=~"$mesh"' in chosen for series in names_in(query.expr).metrics), chosen
        assert chosen.replace('{mesh=~"$mesh"}', "").replace('mesh=~"$mesh",', "") == query.expr


def test_every_declared_metric_is_looked_at_somewhere() -> None:
    """In a panel or in a rule; what nobody looks at need not be measured."""
    seen = {metric_of(series) for expr in (*recorded().values(), *_all_queries()) for series in names_in(expr).metrics}
    seen |= {series for expr in (*recorded().values(), *_all_queries()) for series in names_in(expr).metrics}
    assert {declared.name for declared in DECLARED} - seen == set()


def _all_queries() -> list[str]:
    return [query.expr for query in QUERIES]


def test_panels_have_their_own_numbers_and_places() -> None:
    panels = overview()["panels"]
    numbers = [panel["id"] for panel in panels]
    assert len(set(numbers)) == len(numbers)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        squares = {(x, y) for x in _span(place, "x", "w") for y in _span(place, "y", "h")}
        assert not squares & taken, panel["title"]
        assert place["x"] + place["w"] <= 24
        taken |= squares


def _span(place: dict[str, Any], start: str, length: str) -> range:
    return range(place[start], place[start] + place[length])


def test_dots_on_latencies_open_the_traces_that_are_provisioned() -> None:
    provisioned = yaml.safe_load((MONITORING / "grafana/provisioning/datasources/chatmesh.yaml").read_text())
    by_uid = {source["uid"]: source for source in provisioned["datasources"]}
    (link,) = by_uid["prometheus"]["jsonData"]["exemplarTraceIdDestinations"]
    assert link["name"] == "trace_id"
    assert by_uid[link["datasourceUid"]]["type"] == "jaeger"
    assert sum(query.exemplars for query in QUERIES) >= 3
