"""What `top` makes of what it reads."""

import asyncio
import contextlib
import io
import json
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console

from deploy.terminal.top import __main__ as top
from deploy.terminal.top.flow import Flow, Totals
from deploy.terminal.top.rendering import render
from deploy.terminal.top.roster import Roster
from deploy.terminal.top.scrape import Scraper, sums, urls_of_run
from deploy.terminal.top.view import GroupRow, View, group_rows, service_rows
from deploy.terminal.top.watch import Watch
from shared.errors import LogError
from shared.heartbeats import Member
from shared.ids import now_ms
from shared.log import RawRecord
from shared.log.progress import GroupProgress
from shared.records import Heartbeat
from shared.settings import MeshSettings
from shared.topics import OWNERS

ENDS = ("completed", "failed")


def member(name: str = "inference-1", at_ms: int = 1000, **beat: object) -> Member:
    fields = {"service": name.partition("-")[0], "id": name, "state": "ready", "seq": 1, **beat}
    return Member(Heartbeat(**fields), at_ms, at_ms)  # type: ignore[arg-type]


def names(*members: Member) -> dict[str, Member]:
    return {each.beat.id: each for each in members}


def test_the_first_look_is_no_news_and_then_every_change_is() -> None:
    roster = Roster()
    roster.look(names(member(), member("history-1")))
    assert not roster.news
    roster.look(names(member(state="draining", at_ms=2000), member("history-1"), member("gateway-1", at_ms=3000)))
    roster.look(names(member("gateway-1", claims=[])))
    assert [(each.at_ms, each.text) for each in roster.news] == [
        (2000, "inference-1 is draining"),
        (3000, "gateway-1 came: ready"),
        (1000, "history-1 fell silent"),
        (2000, "inference-1 left"),
    ]


def test_a_worker_that_fell_silent_names_what_it_held() -> None:
    roster = Roster()
    roster.look(names(member(claims=["a", "b"])))
    roster.look({})
    assert roster.news[-1].text == "inference-1 fell silent, holding 2 claims"


def test_the_flow_counts_a_minute_and_forgets_the_rest() -> None:
    flow = Flow()
    flow.count(1_000, "accepted")
    for at_ms in (40_000, 41_000, 65_000, 64_000):  # partitions differ by moments
        flow.count(at_ms, "delta")
    flow.count(66_000, "completed")
    flow.count(66_000, "output_tokens", 120)
    flow.count(66_500, "screening")
    assert flow.totals(67_000, ENDS) == Totals(0, (("completed", 1),), 120, 0.2, 1)
    assert flow.totals(67_000, ENDS).tokens_per_s == 2.0
    assert flow.totals(200_000, ENDS) == Totals()


def test_a_clock_that_is_ahead_stops_no_minute() -> None:
    now = now_ms()
    heard = SimpleNamespace(cluster=SimpleNamespace(now_ms=now, members={}))
    watch = Watch(MeshSettings(), heard, Scraper([]))  # type: ignore[arg-type]
    for at_ms in (now + 3_600_000, now - 30_000):
        watch.count([RawRecord(0, 0, at_ms, "resp_1", b"{}", (("ce_type", b"chatmesh.accepted"),))])
    assert watch.view().totals.accepted == 2
    heard.cluster.now_ms = now + 120_000
    assert watch.view().totals.accepted == 0


EXPOSITION = """\
# TYPE chatmesh_generated_tokens counter
chatmesh_generated_tokens_total {tokens}
# TYPE chatmesh_active_streams gauge
chatmesh_active_streams{{transport="sse"}} 2
chatmesh_active_streams{{transport="websocket"}} 3
# TYPE other counter
other_total 9
"""


def test_metrics_are_summed_over_their_labels_and_rates_are_since_the_look_before() -> None:
    now = iter([0.0, 2.0, 4.0])
    scraper = Scraper(["a", "b"], clock=lambda: next(now))
    first = scraper.take({"a": sums(EXPOSITION.format(tokens=100))})
    assert (first.asked, first.answered, first.streams, first.tokens_per_s) == (2, 1, 5, None)
    second = scraper.take({"a": sums(EXPOSITION.format(tokens=150)), "b": sums(EXPOSITION.format(tokens=7))})
    assert (second.streams, second.tokens_per_s) == (10, 25.0)
    restarted = scraper.take({"a": sums(EXPOSITION.format(tokens=3)), "b": sums(EXPOSITION.format(tokens=9))})
    assert restarted.tokens_per_s == 1.0


@pytest.mark.parametrize(
    "text",
    [
        "<html><body>hello</body></html>",
        '{"a": 1}',
        "hello",
        'b{ca"d"} NaN',
        "chatmesh_active_streams NaN",
        "chatmesh_generation_takeovers_total +Inf",
    ],
)
async def test_what_answers_with_something_else_does_not_answer(text: str, tmp_path: Path) -> None:
    (tmp_path / "metrics").write_text(text)
    scraped = await Scraper([f"file://{tmp_path}/metrics", f"file://{tmp_path}/none", "no address"]).scrape()
    assert scraped is not None and (scraped.asked, scraped.answered) == (3, 0)


async def test_a_service_of_this_machine_is_asked_directly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever proxy the environment names."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b'HTTP/1.0 200 OK\r\n\r\nchatmesh_active_streams{transport="sse"} 3\n')
        writer.close()

    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.setattr("urllib.request._opener", None)  # what it has read of the environment before
    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        host, port = server.sockets[0].getsockname()
        found = await Scraper([f"http://{host}:{port}/metrics"]).scrape()
    assert found is not None
    assert (found.answered, found.streams) == (1, 3)


@pytest.fixture
def unheard(monkeypatch: pytest.MonkeyPatch) -> None:
    """A mesh whose services are all gone, and that cannot be followed beyond one look."""

    class Gone:
        def view(self) -> View:
            return View("127.0.0.1:9092", 0, (), Totals(), None, None, ())

        async def pause(self, seconds: float) -> None:
            raise LogError("the broker is gone too")

    @contextlib.asynccontextmanager
    async def watching(settings: MeshSettings, urls: list[str]) -> AsyncIterator[Gone]:
        yield Gone()

    monkeypatch.setattr(top, "watching", watching)
    monkeypatch.setattr(top, "broker_settings", lambda: MeshSettings())


@pytest.mark.parametrize("arguments", [["--once"], ["--once", "--json"], []])
def test_one_look_that_hears_nobody_is_an_error(
    unheard: None, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert top.main(arguments) == 1
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("error: no service is heard on the broker at 127.0.0.1:9092: start a mesh")


def test_looks_that_go_on_show_that_nobody_is_heard(unheard: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert top.main(["--json"]) == 1
    out, err = capsys.readouterr()
    assert json.loads(out)["services"] == [] and err == "error: the broker is gone too\n"


def test_the_endpoints_of_a_run_are_found_and_none_where_nothing_runs(tmp_path: Path) -> None:
    targets = tmp_path / "metrics-targets.json"
    assert urls_of_run(targets) == []
    targets.write_text('[{"targets": ["127.0.0.1:1"], "labels": {}}, {"targets": ["127.0.0.1:2"], "labels": {}}]')
    assert urls_of_run(targets) == ["http://127.0.0.1:1/metrics", "http://127.0.0.1:2/metrics"]


def test_services_stand_in_the_order_of_a_responses_life_with_their_rates() -> None:
    worker = member(slots_total=4, slots_free=1, claims=["x"], steps=300, at_ms=3000)
    rows = service_rows([worker, member("gateway-1")], 3500, {"inference-1": (2000, 100)})
    assert [row.id for row in rows] == ["gateway-1", "inference-1"]
    assert (rows[1].age_ms, rows[1].steps_per_s, rows[0].steps_per_s) == (500, 200.0, None)


def test_a_group_shows_where_it_is_the_furthest_behind() -> None:
    (row,) = group_rows([GroupProgress(OWNERS, 2, "Stable", {0: 0, 1: 7, 2: 3})])
    assert (row.lag, row.worst_partition, row.worst_lag) == (10, 1, 7)
    (idle,) = group_rows([GroupProgress(OWNERS, 2, "Stable", {0: 0})])
    assert (idle.lag, idle.worst_partition) == (0, None)


@pytest.mark.parametrize("width", [20, 40, 60, 80, 200])
@pytest.mark.parametrize("groups", [None, (GroupRow("g", "responses.journal", 1, "Stable", 2_000, 3, 2_000),)])
def test_it_fits_the_terminal(width: int, groups: tuple[GroupRow, ...] | None) -> None:
    rows = service_rows([member(model="a/very-long-name-of-a-model\x1b[31m" * 3, slots_total=3)], 1100, {})
    view = View("127.0.0.1:9092", 1_795_293_743_000, rows, Totals(), groups, None, ())
    out = io.StringIO()
    Console(file=out, width=width).print(render(view))
    assert "\x1b" not in out.getvalue()
    table = [line for line in out.getvalue().splitlines() if line.startswith(("SERVICE", "inf"))]
    assert len(table) == 2 and ("MODEL" in table[0]) is (width >= 60)
    assert max(map(len, out.getvalue().splitlines())) <= width
    assert view.as_json()["running"] == 0


def test_a_terminal_is_shown_the_groups_that_are_not_well() -> None:
    well = GroupRow("well", "t", 1, "Stable", 0, None, 0)
    late, empty = GroupRow("late", "t", 1, "Stable", 2, 3, 2), GroupRow("empty", "t", 0, "Empty", 0, None, 0)
    view = View("127.0.0.1:9092", 0, (), Totals(), (well, late, empty), None, ())
    shown = {}
    for brief in (True, False):
        out = io.StringIO()
        Console(file=out, width=80).print(render(view, brief=brief))
        shown[brief] = out.getvalue()
    assert "late" in shown[True] and "empty" in shown[True] and "well" not in shown[True]
    assert "1 groups without lag" in shown[True]
    assert "well" in shown[False]
