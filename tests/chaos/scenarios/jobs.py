"""Jobs that go wrong: one that kills every engine, one that was sent twice, one whose group gains a member."""

import asyncio
from collections.abc import Sequence

from shared.log import LogWriter
from shared.records import AnyTerminal, Job
from shared.topics import DEAD_LETTERS, EVENTS, JOBS, JOURNAL, Service
from tests.chaos.evidence import Harm, Violation
from tests.chaos.figures import row
from tests.chaos.logrules import folded
from tests.chaos.scenarios import logs
from tests.chaos.scenarios.requests import created, freed, streaming
from tests.chaos.scenarios.rules import Ended, buried, claims_of, died, reclaimed, slowed
from tests.chaos.scenarios.stage import POISON, SILENCE_LIMIT_S, Outcome, Question, Stage
from tests.support.logs import records

ATTEMPTS = 3
LOOP_DIED = "the engine's loop died"
"""What a worker's log says of it, as an error."""
BYSTANDERS = 8
DUPLICATED = 6
JOINED = 64
CLAIMED_S = 2.0
"""Until a worker has claimed what it was sent."""


async def poison_job(stage: Stage) -> Outcome:
    """A prompt that kills the engine of every worker it comes to, beside ordinary streams."""
    workers = _workers(stage)
    questions = await stage.questions(BYSTANDERS, 160)
    async with streaming(stage, questions) as clients:
        response_id = await created(stage, Question(f"Brew {POISON}.", 40, ""), background=True)
        terminal = await _ended(stage, response_id)
    journals = await logs.sub_logs(stage.mesh, JOURNAL)
    letters = await records(stage.mesh, DEAD_LETTERS[JOBS.name])
    found = list(buried(response_id, journals[response_id], terminal, letters, ATTEMPTS))
    found += died(workers, _workers(stage))
    waits, late = slowed(stage.notebook.lines, [client.number for client in clients], SILENCE_LIMIT_S)
    return Outcome([*found, *late], [row("poison job: longest silence of the others", ATTEMPTS, waits)])


async def duplicated_job(stage: Stage) -> Outcome:
    """A running job is sent again, to its worker and to the other one, while it runs and after it ended."""
    questions = await stage.questions(DUPLICATED, 120)
    async with streaming(stage, questions) as clients:
        jobs = await _jobs(stage, [client.response_id for client in clients])
        await _send_everywhere(stage, jobs)
    await _send_everywhere(stage, jobs[:1])
    await asyncio.sleep(CLAIMED_S)
    journals = await logs.sub_logs(stage.mesh, JOURNAL)
    late = [claim for job in jobs for claim in claims_of(journals[job.response_id])[1:]]
    ended = [Ended(c.record.response_id, c.record.claim, c.record.worker, c.timestamp_ms) for c in late]
    waits, found = await freed(stage, ended)
    if len(ended) < len(jobs):
        # Without these claims nothing was tested: the second worker must have believed that the job was its own.
        found.append(Violation(Harm.RECLAIMED, "duplicates", f"{len(ended)} claims, {len(jobs)} jobs were sent twice"))
    return Outcome(found, [row("duplicated job: claim to free slot", len(ended), waits)])


async def joining_worker(stage: Stage) -> Outcome:
    """A worker joins the group while many generations run: nobody claims anything anew."""
    questions = await stage.questions(8, 240)
    async with streaming(stage, [questions[n % 8] for n in range(JOINED)]) as clients:
        stage.mesh.add(Service.INFERENCE)
        await stage.mesh.wait_ready()
    journals = await logs.sub_logs(stage.mesh, JOURNAL)
    found = list(reclaimed(journals, [client.response_id for client in clients]))
    waits, late = slowed(stage.notebook.lines, [client.number for client in clients], SILENCE_LIMIT_S)
    return Outcome([*found, *late], [row("joining worker: longest silence in a stream", 1, waits)])


def _workers(stage: Stage) -> set[str]:
    """The workers whose processes run."""
    return {replica.id for replica in stage.mesh.of(Service.INFERENCE) if replica.process.running}


async def _ended(stage: Stage, response_id: str) -> AnyTerminal:
    """The response's terminal. Raises TimeoutError."""
    async with asyncio.timeout(30):
        while True:
            fold = folded((await logs.sub_logs(stage.mesh, EVENTS)).get(response_id, ()))
            if fold.terminal is not None:
                return fold.terminal
            await asyncio.sleep(0.5)


async def _jobs(stage: Stage, response_ids: Sequence[str]) -> list[Job]:
    mail = [envelope.record for envelope in await records(stage.mesh, JOBS)]
    return [record for record in mail if isinstance(record, Job) and record.response_id in response_ids]


async def _send_everywhere(stage: Stage, jobs: Sequence[Job]) -> None:
    """Each job again, to a mailbox of every worker."""
    mailboxes = [m.beat.partitions[0] for m in stage.cluster.alive(Service.INFERENCE, ready=True) if m.beat.partitions]
    writer = LogWriter(stage.mesh.settings, Service.MODERATION, "chaos")
    await writer.start()
    try:
        for job in jobs:
            for mailbox in mailboxes:
                await writer.append(JOBS, job, partition=mailbox)
    finally:
        await writer.stop()
