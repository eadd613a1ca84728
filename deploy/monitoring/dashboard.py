"""`make dashboard` writes the overview dashboard again, after a change of its panels here.

Queries select by what `shared/telemetry/metrics.py` declares and the recording rules record; tests hold them to that,
and Prometheus' own parser reads each.
"""

import json
import re
import sys
from dataclasses import replace
from pathlib import Path

from deploy.monitoring.panels import Choice, Json, Panel, Query, Row, Shape, Unit, dashboard_json
from shared.telemetry.metrics import DECLARED

PATH = Path(__file__).parent / "grafana" / "dashboards" / "chatmesh.json"
_RATE = "$__rate_interval"

_MESH = Choice("mesh", "Mesh", "label_values(chatmesh_service_state, mesh)")
_DECLARED = "|".join(declared.name for declared in DECLARED)
_SERIES = re.compile(
    rf"\b(?P<name>\w+:[\w:]+|process_\w+|ALERTS|(?:{_DECLARED})(?:_bucket|_count|_sum)?)(?![\w:])(?P<selector>{{)?"
)
"""A series in PromQL: recorded, of the process, Prometheus' own, or declared."""


def _percentiles(metric: str, *, by: str = "") -> tuple[Query, ...]:
    """Median, 95th and 99th percentile of a histogram; the dots are exemplars, each a link to its trace."""
    labels, legend = ("le", "") if not by else (f"le, {by}", f" {{{{{by}}}}}")
    return tuple(
        Query(
            f"histogram_quantile({q}, sum by ({labels}) (rate({metric}_bucket[{_RATE}])))",
            f"p{round(100 * q)}{legend}",
            exemplars=q == 0.95,
        )
        for q in (0.5, 0.95, 0.99)
    )


def _p95(metric: str, by: str) -> Query:
    expr = f"histogram_quantile(0.95, sum by (le, {by}) (rate({metric}_bucket[{_RATE}])))"
    return Query(expr, f"{{{{{by}}}}}", exemplars=True)


def _rate(selector: str, *by: str) -> Query:
    """How often a second, summed over everything but `by`."""
    legend = " ".join(f"{{{{{label}}}}}" for label in by)
    return Query(f"sum by ({', '.join(by)}) (rate({selector}[{_RATE}]))", legend)


_USERS = Row(
    "What users feel",
    (
        Panel(
            "Ready instances",
            "Per service. Without one of a service, what it does stands still.",
            (Query("job:chatmesh_instances_ready:sum", "{{job}}"),),
            shape=Shape.NUMBER,
            width=12,
        ),
        Panel(
            "Firing alerts",
            "Each has a section in docs/runbook.md.",
            (Query('count by (alertname) (ALERTS{alertname=~"Chatmesh.+",alertstate="firing"})', "{{alertname}}"),),
            shape=Shape.NUMBER,
            limit=1,
            width=12,
        ),
        Panel(
            "Time to first token",
            "From a request that was read to its first text at the client. Objective: 95 % within 2.5 s.",
            _percentiles("chatmesh_response_time_to_first_token_seconds"),
            Unit.SECONDS,
            limit=2.5,
        ),
        Panel(
            "Time per output token",
            "As clients see it: between the first and the last text of a stream, by tokens.",
            _percentiles("chatmesh_response_time_per_output_token_seconds"),
            Unit.SECONDS,
        ),
        Panel(
            "Tokens",
            "By the usage of ended responses (exact), and as workers generate them, what was generated twice included.",
            (
                Query("rate(chatmesh:usage_tokens:total[5m])", "{{gen_ai_token_type}}, of ended responses"),
                Query(f"sum(rate(chatmesh_generated_tokens_total[{_RATE}]))", "generated"),
            ),
            Unit.PER_SECOND,
        ),
        Panel(
            "Active streams",
            "Clients that are being told a response right now; responses that gateways hold for them.",
            (
                Query("sum by (transport) (chatmesh_active_streams)", "{{transport}}"),
                Query("sum(chatmesh_followed_responses)", "followed responses"),
            ),
        ),
        Panel(
            "Requests by status",
            "HTTP answers of the gateways; a stream counts at its end.",
            (_rate("http_server_request_duration_seconds_count", "http_response_status_code"),),
            Unit.PER_SECOND,
            stacked=True,
        ),
        Panel(
            "Responses by outcome",
            "Terminal events, and inputs that were refused.",
            (_rate("chatmesh_responses_total", "outcome"),),
            Unit.PER_SECOND,
            stacked=True,
        ),
        Panel(
            "Errors that clients were told",
            "By OpenAI's code: rate_limit_exceeded is back-pressure or a tenant's limit.",
            (_rate("chatmesh_requests_refused_total", "code"),),
            Unit.PER_SECOND,
        ),
        Panel(
            "Streams resumed",
            "Clients that went on behind a sequence number, after a break of their line or of a gateway.",
            (_rate("chatmesh_stream_resumes_total", "transport"),),
            Unit.PER_SECOND,
        ),
        Panel(
            "Streams broken off",
            "Clients that read too slowly (CHATMESH_LAG_LIMIT_S).",
            (_rate("chatmesh_stream_evictions_total", "transport"),),
            Unit.PER_SECOND,
        ),
    ),
)

_GENERATION = Row(
    "Generation",
    (
        Panel(
            "Slots and waiting jobs",
            "Where jobs wait while no slot is free, workers are missing.",
            (
                Query("sum by (state) (chatmesh_engine_slots)", "slots {{state}}"),
                Query("sum(chatmesh_waiting_jobs)", "waiting jobs"),
            ),
        ),
        Panel(
            "Engine steps",
            "Per worker. None while slots are taken: the engine hangs.",
            (_rate("chatmesh_engine_steps_total", "instance"),),
            Unit.PER_SECOND,
        ),
        Panel(
            "Takeovers",
            "Generations that another worker went on with, by why; partitions with open responses that changed owners.",
            (
                _rate("chatmesh_generation_takeovers_total", "reason"),
                Query(f"sum(rate(chatmesh_partition_takeovers_total[{_RATE}]))", "partitions"),
            ),
            Unit.PER_SECOND,
        ),
        Panel(
            "First token at the worker",
            "From the claim to the first token: the prompt's prefill.",
            _percentiles("gen_ai_server_time_to_first_token_seconds"),
            Unit.SECONDS,
        ),
        Panel(
            "Time per token at the worker",
            "The engine alone; compare with what users feel.",
            _percentiles("gen_ai_server_time_per_output_token_seconds"),
            Unit.SECONDS,
        ),
        Panel(
            "Generations: duration",
            "From the claim to the last record, at the worker.",
            _percentiles("gen_ai_server_request_duration_seconds"),
            Unit.SECONDS,
        ),
        Panel(
            "Claims by how they ended",
            "Jobs that workers took.",
            (_rate("chatmesh_claims_total", "outcome"),),
            Unit.PER_SECOND,
            stacked=True,
        ),
    ),
)

_MODERATION = Row(
    "Moderation",
    (
        Panel(
            "Hold-back",
            "From a token in the journal to the public text that it releases.",
            _percentiles("chatmesh_hold_back_seconds"),
            Unit.SECONDS,
            limit=1,
        ),
        Panel(
            "Verdicts",
            "By stage and decision.",
            (_rate("chatmesh_verdicts_total", "stage", "decision"),),
            Unit.PER_SECOND,
        ),
        Panel(
            "Open responses and partitions",
            "Every partition has one owner; a response is open from its request to its terminal event.",
            (
                Query("sum(chatmesh_open_responses)", "open responses"),
                Query("sum(chatmesh_owned_partitions)", "partitions with an owner"),
                Query("max(chatmesh_partitions)", "partitions"),
            ),
        ),
        Panel(
            "Backends: duration (p95)",
            "Calls of models and detectors.",
            (_p95("chatmesh_moderation_backend_duration_seconds", "backend"),),
            Unit.SECONDS,
        ),
        Panel(
            "Backends: failed or late",
            "Where the policy says on_failure closed, each ends a response as failed.",
            (_rate('chatmesh_moderation_backend_duration_seconds_count{status!="ok"}', "backend", "status"),),
            Unit.PER_SECOND,
        ),
    ),
)

_HISTORY = Row(
    "History",
    (
        Panel(
            "Recorded responses",
            "Ended responses that the recorder stored.",
            (_rate("chatmesh_recorded_responses_total", "job"),),
            Unit.PER_SECOND,
        ),
        Panel(
            "Store: duration (p95)",
            "By operation.",
            (_p95("chatmesh_store_operation_duration_seconds", "db_operation_name"),),
            Unit.SECONDS,
        ),
        Panel(
            "Store: errors",
            "By what went wrong.",
            (_rate('chatmesh_store_operation_duration_seconds_count{error_type!=""}', "error_type"),),
            Unit.PER_SECOND,
        ),
    ),
)

_LOG = Row(
    "The log",
    (
        Panel(
            "Lag of groups",
            "Records that a group has not read yet.",
            (
                Query(
                    "group:chatmesh_consumer_lag_records:sum",
                    "{{messaging_consumer_group_name}}: {{messaging_destination_name}}",
                ),
            ),
        ),
        Panel(
            "Lag of followers",
            "The largest of any gateway, owner or worker that follows a topic without a group.",
            (
                Query(
                    "max by (job, messaging_destination_name) "
                    '(chatmesh_consumer_lag_records{messaging_consumer_group_name=""})',
                    "{{job}}: {{messaging_destination_name}}",
                ),
            ),
        ),
        Panel(
            "Append to acknowledgement (p95)",
            "By topic. It is part of every token's way, twice.",
            (_p95("messaging_client_operation_duration_seconds", "messaging_destination_name"),),
            Unit.SECONDS,
        ),
        Panel(
            "Records appended",
            "By topic.",
            (_rate('messaging_client_sent_messages_total{error_type=""}', "messaging_destination_name"),),
            Unit.PER_SECOND,
        ),
        Panel(
            "Records read",
            "By topic, replays included.",
            (_rate("messaging_client_consumed_messages_total", "messaging_destination_name"),),
            Unit.PER_SECOND,
        ),
        Panel(
            "Appends that failed",
            "By topic and error. Nothing here is normal but in an outage of the broker.",
            (
                _rate(
                    'messaging_client_sent_messages_total{error_type!=""}', "messaging_destination_name", "error_type"
                ),
            ),
            Unit.PER_SECOND,
        ),
        Panel(
            "Dead letters and replaced consumers",
            "Records that could not be handled; consumers that stood still.",
            (
                Query(
                    f"sum by (messaging_destination_name) (increase(chatmesh_dead_letters_total[{_RATE}]))",
                    "dead letters: {{messaging_destination_name}}",
                ),
                Query(
                    f"sum by (messaging_destination_name) (increase(chatmesh_lost_dead_letters_total[{_RATE}]))",
                    "lost: {{messaging_destination_name}}",
                ),
                Query(
                    f"sum by (job, messaging_destination_name) (increase(chatmesh_consumer_heals_total[{_RATE}]))",
                    "replaced: {{job}} {{messaging_destination_name}}",
                ),
            ),
        ),
    ),
)

_PROCESSES = Row(
    "Processes",
    (
        Panel(
            "Readiness",
            "1 while an instance serves; it starts or drains otherwise.",
            (Query('chatmesh_service_state{state="ready"}', "{{job}} {{instance}}"),),
            shape=Shape.STATES,
        ),
        Panel(
            "Heartbeats",
            "Acknowledged by the log, five a second from each; an instance without any counts as dead.",
            (
                _rate(
                    'messaging_client_sent_messages_total{messaging_destination_name="service.heartbeats",error_type=""}',
                    "job",
                    "instance",
                ),
            ),
            Unit.PER_SECOND,
        ),
        Panel(
            "Processor time",
            "Cores in use.",
            (_rate('process_cpu_seconds_total{job=~"chatmesh/.+"}', "job", "instance"),),
        ),
        Panel(
            "Memory",
            "Resident. A gateway's buffers have a bound per partition; a worker's is the model and its cache.",
            (Query('process_resident_memory_bytes{job=~"chatmesh/.+"}', "{{job}} {{instance}}"),),
            Unit.BYTES,
        ),
        Panel(
            "Open files",
            "Each stream is one at its gateway.",
            (Query('process_open_fds{job=~"chatmesh/.+"}', "{{job}} {{instance}}"),),
        ),
    ),
)

ROWS = (_USERS, _GENERATION, _MODERATION, _HISTORY, _LOG, _PROCESSES)


def overview() -> Json:
    """The dashboard, as Grafana imports it."""
    description = (
        "One mesh: what users feel first, then each part. Dots on latencies are exemplars: they open the trace."
    )
    rows = [replace(row, panels=[_of_chosen_mesh(panel) for panel in row.panels]) for row in ROWS]
    return dashboard_json("chatmesh-overview", "chatmesh", description, rows, _MESH)


def _of_chosen_mesh(panel: Panel) -> Panel:
    return replace(panel, queries=[replace(query, expr=of_chosen_mesh(query.expr)) for query in panel.queries])


def of_chosen_mesh(expr: str) -> str:
    """`expr` over the mesh that the dashboard's reader chose: every series in it selects by the label."""
    chosen = f'{_MESH.name}=~"${_MESH.name}"'
    return _SERIES.sub(lambda found: f"{found['name']}{{{chosen}" + ("," if found["selector"] else "}"), expr)


def rendered() -> str:
    """What stands in the file."""
    return json.dumps(overview(), indent=2, ensure_ascii=False) + "\n"


def main() -> int:
    PATH.write_text(rendered(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
