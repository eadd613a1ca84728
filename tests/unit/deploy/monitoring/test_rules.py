"""Alerts and recording rules: Prometheus' own tool accepts and tests them, and they name what is really there."""

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from shared.telemetry.metrics import DECLARED, Declared
from tests.support.tools import required_tool
from tests.unit.deploy.monitoring.files import (
    CONFIGURATIONS,
    RULE_FILES,
    RUNBOOK,
    TEST_FILES,
    alerts,
    anchors,
    recorded,
    rules,
)
from tests.unit.deploy.monitoring.promql import metric_of, names_in

OF_PROMETHEUS = frozenset({"up", "ALERTS"})
OF_SCRAPES = frozenset({"job", "instance", "mesh", "le", "alertname", "alertstate"})
BY_NAME = {declared.name: declared for declared in DECLARED}


@pytest.fixture(scope="module")
def promtool() -> Path:
    return required_tool("promtool")


def run(promtool: Path, *arguments: str | Path) -> None:
    done = subprocess.run([promtool, *arguments], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


def test_promtool_accepts_the_rules(promtool: Path) -> None:
    run(promtool, "check", "rules", "--lint=all", "--lint-fatal", *RULE_FILES)


@pytest.mark.parametrize("path", CONFIGURATIONS, ids=lambda path: path.stem)
def test_promtool_accepts_the_configurations(promtool: Path, path: Path) -> None:
    run(promtool, "check", "config", "--lint=all", path)


@pytest.mark.parametrize("path", TEST_FILES, ids=lambda path: path.stem)
def test_alerts_fire_when_they_should_and_only_then(promtool: Path, path: Path) -> None:
    run(promtool, "test", "rules", path)


def cases() -> list[dict[str, Any]]:
    return [
        case
        for path in TEST_FILES
        for scene in yaml.safe_load(path.read_text())["tests"]
        for case in scene.get("alert_rule_test", ())
    ]


@pytest.mark.parametrize("name", alerts())
def test_every_alert_is_shown_to_fire_and_to_be_silent(name: str) -> None:
    of_alert = [bool(case.get("exp_alerts")) for case in cases() if case["alertname"] == name]
    assert sorted(set(of_alert)) == [False, True]


@pytest.mark.parametrize("name", recorded())
def test_every_recording_rule_is_shown_to_be_right(name: str) -> None:
    texts = [path.read_text() for path in TEST_FILES]
    assert any(f"expr: {name}" in text or f"expr: round({name}" in text for text in texts)


@pytest.mark.parametrize(("name", "rule"), alerts().items())
def test_every_alert_says_how_urgent_it_is_and_what_to_do(name: str, rule: dict[str, Any]) -> None:
    assert rule["labels"]["severity"] in {"critical", "warning"}
    assert set(rule["annotations"]) == {"summary", "description", "runbook_url"}
    page, _, anchor = rule["annotations"]["runbook_url"].partition("#")
    assert page == "docs/runbook.md"
    assert anchor == name.lower()
    assert anchor in anchors(RUNBOOK.read_text()), "the runbook has no such section"


def test_the_runbook_has_no_section_of_an_alert_that_is_gone() -> None:
    sections = [line[3:].strip() for line in RUNBOOK.read_text().splitlines() if line.startswith("## Chatmesh")]
    assert sections == list(alerts()), "one section per alert, in the order of the rules"


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: rule.get("alert") or rule["record"])
def test_rules_name_only_what_is_declared(rule: dict[str, Any]) -> None:
    assert undeclared(rule["expr"]) == []


def undeclared(expr: str) -> list[str]:
    """Metrics, labels and bounds of buckets in `expr` that nothing has."""
    names = names_in(expr)
    known, labels, bounds = set(OF_PROMETHEUS), set(OF_SCRAPES), set[float]()
    for series in names.metrics:
        if series in recorded():
            known.add(series)
            labels |= names_in(recorded()[series]).labels
        elif (declared := _declared(series)) is not None:
            known.add(series)
            labels |= set(declared.labels)
            bounds |= set(declared.buckets)
        elif series.startswith("process_"):  # prometheus-client's own
            known.add(series)
    return [*sorted(names.metrics - known), *sorted(names.labels - labels), *map(str, sorted(names.bounds - bounds))]


def _declared(series: str) -> Declared | None:
    """The declaration of a series: counters and gauges by their name, histograms by their parts'."""
    found = BY_NAME.get(series)
    if found is not None:
        return found if found.kind != "histogram" else None
    of_part = BY_NAME.get(metric_of(series))
    return of_part if of_part is not None and of_part.kind == "histogram" else None


def test_what_is_not_declared_is_seen() -> None:
    """The check above can fail: on a metric, a label and a bucket that nobody has."""
    expr = 'sum by (shape) (rate(chatmesh_hold_back_seconds_bucket{le="3"}[5m])) / chatmesh_elephants and up > 1e3'
    assert undeclared(expr) == ["chatmesh_elephants", "shape", "3.0"]
    assert undeclared("chatmesh_hold_back_seconds") == ["chatmesh_hold_back_seconds"], "a histogram has no such series"


def test_links_of_the_runbook_lead_somewhere() -> None:
    text = RUNBOOK.read_text()
    links = re.findall(r"\]\(([^)#]*)(?:#([^)]+))?\)", text)
    assert len(links) > 10
    for page, anchor in links:
        target = RUNBOOK.parent / page if page else RUNBOOK
        assert target.is_file(), page
        assert not anchor or anchor in anchors(target.read_text()), f"{page}#{anchor}"
