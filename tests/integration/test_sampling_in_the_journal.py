"""What a request asks of sampling, as it stands in the journal of a mesh with the real model."""

import asyncio

from shared.folds import JournalFold
from shared.ids import new_response_id, now_ms
from shared.log import LogWriter
from shared.records import Finish, Message, Requested, ResponseSpec, Sampling
from shared.topics import JOURNAL, Service
from tests.integration.conftest import MODEL
from tests.support.logs import journal_of
from tests.support.mesh import Mesh

PROMPT = [Message(role="user", parts=["Name five animals, separated by commas."])]
FINISH_S = 60
ASKED = Sampling(
    temperature=0.8, top_p=0.95, seed=11, max_output_tokens=24, presence_penalty=0.3, frequency_penalty=0.3, logprobs=3
)


async def answered(mesh: Mesh, sampling: Sampling) -> JournalFold:
    """Request it as a gateway does, in the background, and fold the journal once it holds the end."""
    request = Requested(
        response_id=new_response_id(0).text,
        tenant="local",
        spec=ResponseSpec(model=MODEL, input=PROMPT, sampling=sampling, background=True),
        created_ms=now_ms(),
        deadline_ms=now_ms() + 1_000 * FINISH_S,
        input_tokens=20,
    )
    writer = LogWriter(mesh.settings, Service.GATEWAY, "gateway-of-the-test")
    await writer.start()
    try:
        await writer.append(JOURNAL, request)
    finally:
        await writer.stop()
    async with asyncio.timeout(FINISH_S):
        while True:
            fold = JournalFold()
            for record in await journal_of(mesh, request.response_id):
                fold.apply(record)
            if fold.decision is not None:
                return fold
            await asyncio.sleep(0.2)


async def test_seed_penalties_log_probabilities_and_stop_strings_reach_the_journal(real_mesh: Mesh) -> None:
    whole = await answered(real_mesh, ASKED)
    assert isinstance(whole.decision, Finish)
    assert len(whole.logprobs) == len(whole.ids)
    assert all(len(said.top) == 3 and said.logprob <= 0 for said in whole.logprobs)
    assert [said.end for said in whole.logprobs] == sorted(said.end for said in whole.logprobs)
    told = b"".join(bytes(said.bytes or []) for said in whole.logprobs if said.end <= len(whole.text)).decode()
    assert told.startswith(whole.text)

    stop = whole.text[5:9]
    fields = {name: getattr(ASKED, name) for name in ASKED.__struct_fields__} | {"stop": [stop, "never said"]}
    stopped = await answered(real_mesh, Sampling(**fields))
    assert isinstance(stopped.decision, Finish)
    assert stopped.decision.reason == "stop"
    assert stopped.text == whole.text[: whole.text.index(stop)]
    assert stopped.ids == whole.ids[: len(stopped.ids)], "the same seed draws the same tokens, up to the stop string"
    assert len(stopped.logprobs) == len(stopped.ids) < len(whole.ids)
