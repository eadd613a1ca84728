"""A real Prometheus beside a mesh: every rule works, and every panel of the dashboard has something to show."""

from openai import AsyncOpenAI

from deploy.monitoring.dashboard import ROWS
from tests.deploy.monitoring.trouble import CANARY
from tests.support.watched import Prometheus, WatchedMesh
from tests.unit.deploy.monitoring.files import alerts
from tests.unit.deploy.monitoring.promql import names_in

MAY_BE_EMPTY = {
    "Firing alerts",
    "Store: errors",
    "Appends that failed",
}
"""Panels about what did not happen here."""


async def use(client: AsyncOpenAI, prometheus: Prometheus) -> None:
    """A response, and Prometheus knows: rates are of the last half minute, and what was before may be longer ago."""
    model = (await client.models.list()).data[0].id
    async for _ in await client.responses.create(model=model, input="And one more.", stream=True):
        pass
    await prometheus.until("sum(rate(chatmesh_response_time_to_first_token_seconds_count[30s])) > 0")


async def test_every_rule_works(prometheus: Prometheus) -> None:
    groups = (await prometheus.get("rules"))["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    assert len(rules) >= 28
    assert [rule["name"] for rule in rules if rule["health"] != "ok"] == []


async def test_what_alerts_look_at_is_there(client: AsyncOpenAI, prometheus: Prometheus) -> None:
    """An alert on a series that nobody has would be silent for ever."""
    series = {name for rule in alerts().values() for name in names_in(rule["expr"]).metrics}
    assert len(series) >= 15
    await use(client, prometheus)
    missing = [name for name in series if not await prometheus.query(f"count({name})")]
    assert missing == []


async def test_every_panel_shows_something(client: AsyncOpenAI, prometheus: Prometheus) -> None:
    await use(client, prometheus)
    empty = []
    for panel in (panel for row in ROWS for panel in row.panels):
        for query in panel.queries:
            expr = query.expr.replace("$__rate_interval", "30s")
            if not await prometheus.query(expr) and panel.title not in MAY_BE_EMPTY:
                empty.append(f"{panel.title}: {expr}")
    assert empty == []


async def test_latencies_lead_to_traces(prometheus: Prometheus) -> None:
    found = await prometheus.get(
        "query_exemplars",
        query="chatmesh_response_time_to_first_token_seconds_bucket",
        start="0",
        end="4102444800",
    )
    exemplars = [exemplar for series in found for exemplar in series["exemplars"]]
    assert exemplars
    assert all(len(exemplar["labels"]["trace_id"]) == 32 for exemplar in exemplars)


async def test_no_series_holds_what_users_wrote(mesh: WatchedMesh, prometheus: Prometheus) -> None:
    names = await prometheus.get("labels")
    for name in names:
        values = await prometheus.get(f"label/{name}/values")
        assert [value for value in values if CANARY in value] == [], name
