"""The logs of a mesh, at their most talkative: every line is JSON, and none repeats what users wrote, or a key."""

from collections import Counter

from tests.deploy.monitoring.conftest import assert_discreet, lines_of
from tests.support.watched import Prometheus, WatchedMesh


def test_no_line_holds_what_users_wrote_or_a_key(mesh: WatchedMesh, prometheus: Prometheus) -> None:
    assert_discreet(mesh.folder)
    lines = lines_of(mesh.folder)
    assert {line["service"] for line in lines} == {"gateway", "moderation", "inference", "history"}
    assert {line["service_id"] for line in lines} == {replica.id for replica in mesh.replicas}
    levels = Counter(line["level"] for line in lines)
    assert levels["ERROR"] and levels["DEBUG"], "there was trouble, and all was told"


def test_lines_about_a_response_lead_to_it_and_to_its_trace(mesh: WatchedMesh, prometheus: Prometheus) -> None:
    about_responses = [line for line in lines_of(mesh.folder) if "response_id" in line]
    assert {line["service"] for line in about_responses} >= {"inference", "moderation"}
    in_traces = [line for line in about_responses if "trace_id" in line and "span_id" in line]
    assert {line["service"] for line in in_traces} >= {"inference", "moderation"}
