"""What every scenario gets: a running mesh, a notebook, and questions whose answers are known."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import count, islice
from typing import Any

from shared.heartbeats import Cluster
from shared.topics import EVENTS, JOURNAL, VERDICTS, Service
from tests.chaos.checker import check
from tests.chaos.clients import Gateway, StreamClient
from tests.chaos.evidence import Evidence, Rule, Screening, Violation
from tests.chaos.figures import Row
from tests.chaos.observations import Notebook, now
from tests.chaos.scenarios import logs
from tests.chaos.scenarios.script import Script, Turns
from tests.support.mesh import Mesh, Replica

MODEL = "SmolLM2-135M-Instruct"
TOKENS_PER_S = 20.0
LAG_LIMIT_S = 4.0
GRACE_S = 3.0
POISON = "hemlock"
PATIENCE_S = 60.0
SILENCE_LIMIT_S = 10.0
"""A stream may wait so long for a takeover; on a machine that does nothing else it takes 1.5 s."""
HELD_LIMIT_S = 5.0
"""A slot may stay taken so long; promised is 1 s (DESIGN 8.4), which the figures show."""
SCREENING = Screening(stride=8, hold_back=8, masks={"ing": "[…]"}, cuts=("zz",))
"""Every answer holds words that are masked; about one in six has one before which it is cut."""
_RECORDED_S = 15.0


@dataclass(frozen=True, slots=True)
class Question:
    """A prompt, how many tokens the answer may have, and the public text that it must get."""

    prompt: str
    tokens: int
    text: str

    def wanted(self, **more: Any) -> dict[str, Any]:
        """The body of a request."""
        return {"model": MODEL, "input": self.prompt, "max_output_tokens": self.tokens, **more}


@dataclass(frozen=True)
class Outcome:
    """What a scenario found, and what it measured."""

    violations: Sequence[Violation] = ()
    rows: Sequence[Row] = ()


@dataclass
class Stage:
    """A mesh with two of every service."""

    mesh: Mesh
    cluster: Cluster
    notebook: Notebook
    script: Script = field(default_factory=Script)
    references: dict[str, str] = field(default_factory=dict)
    _streams: "count[int]" = field(default_factory=count)
    _prompts: "count[int]" = field(default_factory=count)

    async def questions(self, number: int, tokens: int, *, cut: bool = False, before: Turns = ()) -> list[Question]:
        """So many new ones, asked behind the turns `before`, whose answers moderation cuts, or masks only."""
        found: list[Question] = []
        while len(found) < number:
            prompts = [f"Go on from {n} with {tokens}." for n in islice(self._prompts, 4 * number)]
            texts = await self.script.texts([((*before, ("user", prompt)), tokens) for prompt in prompts])
            for prompt, text in zip(prompts, texts, strict=True):
                if any(place.mask is None for place in SCREENING.forbidden(text)) == cut:
                    found.append(self.question(prompt, tokens, text))
        return found[:number]

    def question(self, prompt: str, tokens: int, raw_text: str) -> Question:
        """Whoever asks it must be told the public part of `raw_text`."""
        self.references[prompt] = SCREENING.public(raw_text)
        return Question(prompt, tokens, self.references[prompt])

    def gateways(self) -> list[Gateway]:
        """All that run."""
        return [gateway(replica) for replica in self.mesh.of(Service.GATEWAY)]

    def client(self, gateways: Callable[[], Sequence[Gateway]] | None = None) -> StreamClient:
        """A client with a number of its own; it goes to any gateway, or to the given ones in turn."""
        return StreamClient(next(self._streams), gateways or self.gateways, self.notebook)

    async def stream(self, question: Question, at: Sequence[Gateway] | None = None, **more: Any) -> StreamClient:
        """Read an answer to its end; `more` goes into the request."""
        client = self.client(None if at is None else lambda: at)
        await client.run(question.wanted(**more), PATIENCE_S)
        return client

    async def check(self) -> list[Violation]:
        """Everything that clients saw, the logs hold and history stored, against the rules."""
        journals, events, verdicts = [await logs.sub_logs(self.mesh, topic) for topic in (JOURNAL, EVENTS, VERDICTS)]
        evidence = Evidence(self.notebook.lines, journals, events, self.references, SCREENING, verdicts=verdicts)
        deadline = now() + _RECORDED_S
        while True:
            stored = await logs.stored(self.mesh, sorted(events))
            found = check(replace(evidence, stored=stored))
            # The recorder may be a moment behind: what is missing at the deadline is missing.
            if now() > deadline or not any(violation.rule is Rule.STORED for violation in found):
                return found
            await asyncio.sleep(0.5)


def gateway(replica: Replica) -> Gateway:
    """The entrance that a gateway is."""
    return Gateway(replica.id, f"http://127.0.0.1:{replica.port}/v1")
