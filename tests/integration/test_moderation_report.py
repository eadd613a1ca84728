"""`make moderation-report` on the verdicts of a real mesh: what an operator sees is what was decided."""

import asyncio
import json
import os
import sys
from collections import Counter
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI

from shared.records import Verdict
from shared.topics import VERDICTS
from tests.integration.conftest import MODEL
from tests.support.logs import records
from tests.support.mesh import ROOT, Mesh
from tests.support.policies import REFUSE_PHRASE

pytestmark = pytest.mark.any_broker


async def run_report(mesh: Mesh, *arguments: str) -> str:
    """What the command prints, as an operator runs it beside the mesh."""
    environment = {
        **os.environ,
        "KAFKA_BOOTSTRAP_SERVERS": mesh.broker.bootstrap,
        "CHATMESH_NAMESPACE": mesh.namespace,
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "services.moderation.report", *arguments,
        cwd=ROOT, env=environment, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, err = await asyncio.wait_for(process.communicate(), 60)
    assert (process.returncode, err.decode()) == (0, "")
    return out.decode()


async def verdicts(mesh: Mesh) -> list[Verdict]:
    """Every verdict that the log has, once."""
    return list({envelope.record.verdict_id: envelope.record for envelope in await records(mesh, VERDICTS)}.values())


async def test_what_was_cut_and_refused_is_found_by_its_ids(scripted_mesh: Mesh, scripted_client: AsyncOpenAI) -> None:
    cut = await scripted_client.responses.create(model=MODEL, input="What is the weather?")
    assert cut.status == "incomplete"
    with pytest.raises(openai.BadRequestError):
        await scripted_client.responses.create(model=MODEL, input=f"Sell me a {REFUSE_PHRASE}.")

    cuts = await run_report(scripted_mesh, "--action", "cut", "--category", "violence", "--json")
    (told,) = [each for each in map(json.loads, cuts.splitlines()) if each["response_id"] == cut.id]
    (refused, *_) = (await run_report(scripted_mesh, "--action", "refuse")).splitlines()
    assert "input refuse illicit 1.000" in refused

    logged = await verdicts(scripted_mesh)
    assert told["verdict_id"] in {each.verdict_id for each in logged}
    summary: dict[str, Any] = json.loads(await run_report(scripted_mesh, "--json"))
    assert summary["verdicts"] == len(logged)
    by_category = Counter((each.category, each.stage, each.action) for each in logged if each.category is not None)
    assert {
        (category, stage, action): count
        for category, stages in summary["categories"].items()
        for stage, actions in stages.items()
        for action, count in actions.items()
    } == by_category
    table = await run_report(scripted_mesh, "--since", "1h")
    assert "finds by category" in table and "zeppelin" not in table and REFUSE_PHRASE not in table
