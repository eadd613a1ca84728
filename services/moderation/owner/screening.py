"""Screening in the owner: input before anything is public, output as it is judged (DESIGN 4.2, 4.4 and 6).

Nothing here waits for a backend. What one is asked about lines up with its response; once there is an answer the
response is `ready`, and whoever holds the owner's state screens it again, which takes it as far as it can go now.
"""

from collections.abc import Iterable
from typing import Protocol

from services.moderation.judging import JudgePool, context_before
from services.moderation.meter import ModerationMeter
from services.moderation.owner.dispatcher import Dispatcher
from services.moderation.owner.entry import Entry
from services.moderation.owner.outbox import Outbox
from services.moderation.owner.output import Output
from services.moderation.owner.ready import Ready
from services.moderation.owner.response import Owned
from services.moderation.owner.spans import hand_span_over, note_owner_takeover, open_span
from services.moderation.policy import Policy
from services.moderation.windows import TextScreen
from shared.folds import EventFold
from shared.records import Cut


class Policies(Protocol):
    """What responses are accepted under, and were."""

    @property
    def current(self) -> Policy:
        """The policy of responses that are accepted now."""
        ...

    async def named(self, name: str) -> Policy | None:
        """The policy that a response was accepted under; None if nobody can decide as it did. Raises LogError."""
        ...


class Screener:
    """Decides what becomes public."""

    def __init__(
        self,
        policies: Policies,
        judges: JudgePool,
        outbox: Outbox,
        dispatcher: Dispatcher,
        meter: ModerationMeter | None = None,
    ) -> None:
        self.ready = Ready()
        self._policies = policies
        self._judges = judges
        self._outbox = outbox
        self._entry = Entry(outbox, dispatcher, self.ready)
        self._output = Output(outbox, dispatcher, self.ready, meter or ModerationMeter())

    async def resume(self, owned: Owned, events: EventFold) -> None:
        """Go on where the public log stands: the raw text is judged again, alike; what is public is not repeated.
        Raises LogError."""
        assert events.accepted is not None, "a response that nobody accepted has no policy yet"
        policy = await self._policies.named(events.accepted.policy)
        self._judge_by(owned, policy or self._policies.current)
        owned.accepted = True
        owned.screen = TextScreen(owned.judge.policy, resume_at=events.position)
        owned.events = self._outbox.gate(owned, judged_to=events.position)
        owned.resumed_at = events.position
        owned.public_texts = [events.text]
        owned.logprobs = events.logprobs
        open_span(owned)
        note_owner_takeover(owned)
        if policy is None:
            self._end_under_another_policy(owned, events.accepted.policy)

    def _judge_by(self, owned: Owned, policy: Policy) -> None:
        requested = owned.requested
        owned.judged_by = self._judges.judge(policy.of(requested.tenant).asked(requested.spec.moderation))
        owned.context = context_before(requested.prompt())

    def _end_under_another_policy(self, owned: Owned, accepted_under: str) -> None:
        """Two policies may decide differently about the same text, so that what is public cannot be continued."""
        message = (
            f"The moderation policy changed from {accepted_under}, which nobody knows any more, to "
            f"{owned.judge.policy.name} while the response was being generated."
        )
        self._output.fail(owned, Cut(response_id=owned.id, reason="failed", message=message))

    def let_go(self, owned: Owned) -> None:
        """Another owner goes on with the response: what is judged or acknowledged from now on is nothing to us."""
        self._entry.leave(owned)
        owned.line.clear()
        if owned.events is not None:
            owned.events.shut()
        hand_span_over(owned)

    def give_up(self, owned: Owned) -> None:
        """End a response that the journal has decided on with what is public of it."""
        self._output.give_up(owned)

    async def screen(self, responses: Iterable[Owned]) -> None:
        """Bring the public log of each response up to what its journal, and the answers of backends, allow."""
        self._output.begin_batch()
        for owned in responses:
            if owned.closed:
                continue
            if owned.judged_by is None:
                self._judge_by(owned, self._policies.current)
            if not owned.accepted:
                await self._entry.screen(owned)
            if owned.accepted and not owned.closed:
                await self._output.screen(owned)
