"""Rows, panels and queries of a Grafana dashboard, and their JSON. Pure; knows nothing of chatmesh."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
_COLUMNS = 24
_PANEL_HEIGHT = 8
_SCHEMA_VERSION = 39
"""Grafana 11; newer ones migrate it by themselves."""

Json = dict[str, Any]


class Unit(StrEnum):
    """Grafana's names of units."""

    SECONDS = "s"
    PER_SECOND = "cps"
    COUNT = "short"
    BYTES = "bytes"
    RATIO = "percentunit"


class Shape(StrEnum):
    """The kinds of panels that we use."""

    LINES = "timeseries"
    NUMBER = "stat"
    STATES = "state-timeline"


@dataclass(frozen=True, slots=True)
class Query:
    """One PromQL expression. `legend` may name labels: `{{job}}`. `exemplars`: show what it links to, as dots."""

    expr: str
    legend: str = ""
    exemplars: bool = False


@dataclass(frozen=True, slots=True)
class Panel:
    """`limit`: where a line is drawn, in `unit`; above it the objective is missed. `width`: of 24 columns."""

    title: str
    meaning: str
    queries: Sequence[Query]
    unit: Unit = Unit.COUNT
    shape: Shape = Shape.LINES
    stacked: bool = False
    limit: float | None = None
    width: int = 8


@dataclass(frozen=True, slots=True)
class Row:
    """Panels under one heading, in reading order."""

    title: str
    panels: Sequence[Panel] = field(default_factory=tuple)


@dataclass(frozen=True, slots=True)
class Choice:
    """A value of a label, or all, as the reader chooses; `query` asks which there are. In PromQL it is `=~"$name"`."""

    name: str
    label: str
    query: str


def dashboard_json(uid: str, title: str, description: str, rows: Iterable[Row], *choices: Choice) -> Json:
    """The dashboard as Grafana imports it: deterministic, with panel ids in reading order."""
    return {
        "uid": uid,
        "title": title,
        "description": description,
        "tags": ["chatmesh"],
        "editable": True,
        "graphTooltip": 1,  # one cross-hair over all panels
        "schemaVersion": _SCHEMA_VERSION,
        "refresh": "10s",
        "time": {"from": "now-30m", "to": "now"},
        "timezone": "browser",
        "templating": {"list": [_datasource_variable(), *map(_choice_variable, choices)]},
        "annotations": {"list": []},
        "panels": _laid_out(rows),
    }


def _datasource_variable() -> Json:
    return {"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus", "hide": 0}


def _choice_variable(choice: Choice) -> Json:
    """All is also who has no such label."""
    return {
        "name": choice.name,
        "label": choice.label,
        "type": "query",
        "datasource": DATASOURCE,
        "query": choice.query,
        "refresh": 2,  # whenever the time range changes
        "includeAll": True,
        "allValue": ".*",
        "current": {"text": "All", "value": "$__all"},
        "hide": 0,
    }


def _laid_out(rows: Iterable[Row]) -> list[Json]:
    """Left to right, top to bottom; a panel that does not fit begins a new line."""
    made: list[Json] = []
    y = 0
    for row in rows:
        made.append(_row_json(row, len(made) + 1, y))
        x, y = 0, y + 1
        for panel in row.panels:
            if x + panel.width > _COLUMNS:
                x, y = 0, y + _PANEL_HEIGHT
            made.append(_panel_json(panel, len(made) + 1, x, y))
            x += panel.width
        y += _PANEL_HEIGHT
    return made


def _row_json(row: Row, number: int, y: int) -> Json:
    place = {"h": 1, "w": _COLUMNS, "x": 0, "y": y}
    return {"id": number, "type": "row", "title": row.title, "collapsed": False, "gridPos": place, "panels": []}


def _panel_json(panel: Panel, number: int, x: int, y: int) -> Json:
    return {
        "id": number,
        "type": panel.shape.value,
        "title": panel.title,
        "description": panel.meaning,
        "datasource": DATASOURCE,
        "gridPos": {"h": _PANEL_HEIGHT, "w": panel.width, "x": x, "y": y},
        "fieldConfig": {"defaults": _defaults(panel), "overrides": []},
        "options": _OPTIONS[panel.shape],
        "targets": [_target(query, chr(ord("A") + place)) for place, query in enumerate(panel.queries)],
    }


def _target(query: Query, letter: str) -> Json:
    return {
        "refId": letter,
        "datasource": DATASOURCE,
        "expr": query.expr,
        "legendFormat": query.legend or "__auto",
        "range": True,
        "exemplar": query.exemplars,
    }


def _defaults(panel: Panel) -> Json:
    drawn: Json = {"unit": panel.unit.value, "min": 0, "thresholds": _thresholds(panel.limit)}
    if panel.shape is Shape.LINES:
        drawn["custom"] = {
            "fillOpacity": 25 if panel.stacked else 5,
            "lineWidth": 1,
            "showPoints": "never",
            "spanNulls": False,
            "stacking": {"mode": "normal" if panel.stacked else "none", "group": "A"},
            "thresholdsStyle": {"mode": "off" if panel.limit is None else "dashed"},
        }
    return drawn


def _thresholds(limit: float | None) -> Json:
    steps: list[Json] = [{"color": "green", "value": None}]
    if limit is not None:
        steps.append({"color": "red", "value": limit})
    return {"mode": "absolute", "steps": steps}


_OPTIONS: dict[Shape, Json] = {
    Shape.LINES: {
        "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True},
        "tooltip": {"mode": "multi", "sort": "desc"},
    },
    Shape.NUMBER: {
        "colorMode": "value",
        "graphMode": "area",
        "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
        "textMode": "value_and_name",
    },
    Shape.STATES: {
        "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True},
        "mergeValues": True,
        "rowHeight": 0.8,
        "showValue": "never",
    },
}
