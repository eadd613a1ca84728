"""A valid request on its way into the mesh: charged, minted, followed, introduced; refused as a whole or let in."""

import asyncio
import logging
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import msgspec

from services.gateway.admission import Admission
from services.gateway.auth import Caller
from services.gateway.catalogue import check_moderation_model, served_models
from services.gateway.errors import ApiError
from services.gateway.fanout import Fanout, Lease
from services.gateway.history import History
from services.gateway.ingress.introduction import Introduction
from services.gateway.ingress.past import Past
from services.gateway.ingress.prompt import Fitted, fit
from services.gateway.ingress.repeats import Repeats
from services.gateway.ingress.settlement import Settlements
from services.gateway.ingress.tiers import served_tier
from services.gateway.ledger import (
    Ask,
    Conflict,
    Granted,
    Holder,
    Ledger,
    Limited,
    Receipt,
    Repeatable,
    Repeated,
    key_reused,
    limited_error,
)
from services.gateway.projections import RESPONSES, Dialect
from services.gateway.settings import GatewaySettings
from shared.chat import ChatTokenizer
from shared.heartbeats import Cluster
from shared.ids import new_response_id, parse_response_id
from shared.records import ContextRequested, Message, Requested, ResponseSpec

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Ingress:
    """Everything that a request passes before its HTTP status is known."""

    settings: GatewaySettings
    admission: Admission
    tokenizer: ChatTokenizer
    cluster: Cluster
    fanout: Fanout
    introduction: Introduction
    ledger: Ledger
    repeats: Repeats
    history: History
    settlements: Settlements = field(default_factory=Settlements)
    _left: "set[asyncio.Task[Any]]" = field(default_factory=set)

    async def submit(
        self,
        caller: Caller,
        spec: ResponseSpec,
        past: Past | None = None,
        *,
        dialect: Dialect[Any] | None = RESPONSES,
        repeatable: Repeatable | None = None,
    ) -> Lease:
        """Request the response; returns once it was accepted, with its stream.

        `past`: what was said before it; None: what history tells of the response that it goes on from.
        `dialect`: in which the response will be read as it comes; None for one that is wanted whole.
        `repeatable`: what makes this the same request as an earlier one, whose response it then is.
        Raises ApiError: what the ledger, admission, validation, screening or history refused, or the deadline.
        """
        past = past or Past(spec.previous_response_id)
        (lease,) = await self._submitted(_Submission(caller, [spec], past, dialect, repeatable))
        return lease

    async def submit_all(
        self,
        caller: Caller,
        specs: Sequence[ResponseSpec],
        dialect: Dialect[Any] | None = RESPONSES,
        *,
        repeatable: Repeatable | None = None,
    ) -> list[Lease]:
        """Request the choices of one request, which differ in their sampling only: all are accepted, or none goes on.

        Raises ApiError: what the first one that was refused was told.
        """
        past = Past(specs[0].previous_response_id)
        return await self._submitted(_Submission(caller, specs, past, dialect, repeatable))

    async def stop(self) -> None:
        """Give up the introductions whose clients left."""
        await self.settlements.stop()
        for task in self._left:
            task.cancel()
        await asyncio.gather(*self._left, return_exceptions=True)

    # -- clients that leave ------------------------------------------------------------------------------------

    async def _submitted(self, submission: "_Submission") -> list[Lease]:
        entering = asyncio.create_task(self._let_in(submission), name="introduce")
        try:
            return await asyncio.shield(entering)
        except asyncio.CancelledError:
            if not submission.outlives_client:
                entering.cancel()
            self._see_off(entering)
            raise

    def _see_off(self, entering: "asyncio.Task[list[Lease]]") -> None:
        """Nobody waits for it any more: the responses that it comes to are left."""
        self._left.add(entering)
        entering.add_done_callback(self._gone)

    def _gone(self, entering: "asyncio.Task[list[Lease]]") -> None:
        self._left.discard(entering)
        if entering.cancelled():
            return
        error = entering.exception()
        if error is None:
            for lease in entering.result():
                lease.release()
        elif not isinstance(error, ApiError):
            log.error("an introduction failed after its client had left", exc_info=error)

    # -- the first time, or again --------------------------------------------------------------------------------

    async def _let_in(self, submission: "_Submission") -> list[Lease]:
        replaces: str | None = None
        while True:
            try:
                self._refuse_known(submission, replaces)
                return await self._enter(submission, replaces)
            except _RepeatedError as repeated:
                holder = repeated.holder
            leases = await self.repeats.follow(holder, self._deadline_s(submission.spec))
            if leases is not None:
                return leases
            replaces = holder.first

    def _refuse_known(self, submission: "_Submission", replaces: str | None) -> None:
        """What came before costs no place in the queue. Raises _RepeatedError, ApiError 422."""
        if submission.repeatable is not None:
            known = self.ledger.known(submission.caller, submission.repeatable, replaces)
            if known is not None:
                raise _told(known)

    async def _enter(self, submission: "_Submission", replaces: str | None) -> list[Lease]:
        window = self.window(submission.spec.model)
        if submission.spec.moderation is not None:
            check_moderation_model(self.cluster, submission.spec.moderation.model, "moderation.model")
        with ExitStack() as entries:
            for _ in submission.specs:
                entries.enter_context(self.admission.entry())
            # Tokenizing a megabyte takes long enough to stall every stream of this process.
            fitted = await asyncio.to_thread(fit, self.tokenizer, submission.spec, window, submission.own_context)
            tokens = await self._most_tokens(submission, fitted, window)
            requests = [self._request(submission, fitted, spec) for spec in submission.specs]
            # At once: while the ledger decides, the home partitions may move, and these ids lie in the present ones.
            leases = [self.fanout.open(parse_response_id(r.response_id), submission.dialect) for r in requests]
            with ExitStack() as held:
                for lease in leases:
                    held.enter_context(lease)
                receipt = await self._charged(submission, requests, tokens, replaces)
                held.pop_all()
            try:
                await self._all_accepted(submission, requests, leases)
            except ApiError:
                receipt.came_to_nothing()
                raise
            receipt.accepted()
            self.settlements.watch(receipt, leases)
            return leases

    async def _charged(
        self, submission: "_Submission", requests: Sequence[Requested], tokens: int, replaces: str | None
    ) -> Receipt:
        """Raises ApiError 422, 429, 503 and _RepeatedError."""
        caller = submission.caller
        responses = tuple(request.response_id for request in requests)
        ask = Ask(caller, responses, tokens, submission.repeatable, replaces)
        decision, receipt = await self.ledger.charge(ask)
        match decision:
            case Granted():
                return receipt
            case Limited():
                raise limited_error(decision.shortage, self.ledger.standing(caller), caller.tenant)
            case _:
                raise _told(decision)

    async def _most_tokens(self, submission: "_Submission", fitted: Fitted, window: int) -> int:
        """The most that the request can use: each choice its prompt and the longest answer, within the window."""
        limit = window if fitted.spec.sampling.max_output_tokens is None else fitted.spec.sampling.max_output_tokens
        answer = limit if fitted.spec.generate else 0
        prompt = await self._prompt_tokens(submission, fitted, window)
        return min(window, prompt + answer) * len(submission.specs)

    async def _prompt_tokens(self, submission: "_Submission", fitted: Fitted, window: int) -> int:
        """The prompt's tokens, or more: where they are charged, history counts what it will put before the request."""
        if not submission.needs_history:
            return fitted.tokens
        if not self.ledger.charges_tokens(submission.caller):
            return window
        return await self.history.count_input(submission.caller.tenant, submission.as_one())

    # -- the introduction of all choices -------------------------------------------------------------------------

    async def _all_accepted(
        self, submission: "_Submission", requests: Sequence[Requested], leases: Sequence[Lease]
    ) -> None:
        """Raises ApiError if one is not; then all of them are left."""
        ways = [
            asyncio.create_task(self._introduce(submission, lease, request), name="choice")
            for lease, request in zip(leases, requests, strict=True)
        ]
        try:
            await asyncio.gather(*ways)
        except BaseException as error:
            for lease, way in zip(leases, ways, strict=True):
                self._abandon(lease, way, submission, refused=isinstance(error, ApiError))
            raise

    async def _introduce(self, submission: "_Submission", lease: Lease, request: Requested) -> None:
        record = ContextRequested(request=request, base=submission.past.base) if submission.needs_history else request
        await self.introduction.introduce(lease.stream, record)

    def _abandon(self, lease: Lease, way: "asyncio.Task[None]", submission: "_Submission", *, refused: bool) -> None:
        """Leave a choice whose request does not go on. While history assembles the context, the journal has no
        `requested` yet and would ignore what we say: then we leave once it was accepted."""

        def leave(done: "asyncio.Task[None]") -> None:
            self._left.discard(done)
            if refused and (done.cancelled() or done.exception() is None):
                # Nobody was told its id, so nobody will ever ask for it.
                self.introduction.presence.cancel(lease.stream.id)
                lease.stream.counted = False
            lease.release()

        if not submission.needs_history:
            way.cancel()
        self._left.add(way)
        way.add_done_callback(leave)

    # -- the request as it will run ------------------------------------------------------------------------------

    def window(self, model: str) -> int:
        """The model's window in tokens: the tokenizer's, or less where a worker's cache is smaller."""
        if model != self.tokenizer.model_id:
            raise ApiError(
                404,
                f"The model '{model[:200]}' does not exist. This server serves '{self.tokenizer.model_id}'.",
                code="model_not_found",
                param="model",
            )
        served = [found.context_window for found in served_models(self.cluster) if found.id == model]
        return min([self.tokenizer.context_window, *(window for window in served if window)])

    def _request(self, submission: "_Submission", fitted: Fitted, spec: ResponseSpec) -> Requested:
        """The request of one choice: as it was fitted, with the choice's own seed."""
        response_id = new_response_id(self.fanout.next_partition())
        tier, priority = served_tier(submission.caller.tier, spec.service_tier)
        sampling = msgspec.structs.replace(fitted.spec.sampling, seed=spec.sampling.seed)
        return Requested(
            response_id=response_id.text,
            tenant=submission.caller.tenant,
            spec=msgspec.structs.replace(fitted.spec, sampling=sampling, service_tier=tier),
            created_ms=response_id.created_ms,
            deadline_ms=response_id.created_ms + int(self._deadline_s(spec) * 1000),
            input_tokens=fitted.tokens,
            context=list(submission.past.messages if submission.needs_history else fitted.context),
            priority=priority,
            reply_to=self.introduction.replies.address,
        )

    def _deadline_s(self, spec: ResponseSpec) -> float:
        return self.settings.background_deadline_s if spec.background else self.settings.deadline_s


@dataclass(frozen=True, slots=True)
class _Submission:
    """What a client asked for: one spec per choice."""

    caller: Caller
    specs: Sequence[ResponseSpec]
    past: Past
    dialect: Dialect[Any] | None
    repeatable: Repeatable | None

    @property
    def spec(self) -> ResponseSpec:
        """What all choices have in common."""
        return self.specs[0]

    @property
    def needs_history(self) -> bool:
        """Whether history must assemble the context."""
        return self.past.base is not None or self.spec.conversation is not None

    @property
    def own_context(self) -> Sequence[Message]:
        """What of the past must fit the window here: history counts all of what it assembles."""
        return () if self.needs_history else self.past.messages

    def as_one(self) -> ResponseSpec:
        """What history counts as it would assemble it; without truncation it counts what does not fit, too."""
        return msgspec.structs.replace(
            self.spec,
            previous_response_id=self.past.base,
            input=[*self.past.messages, *self.spec.input],
            truncation="disabled",
        )

    @property
    def outlives_client(self) -> bool:
        """Whether its introduction goes on when its client leaves: another process has it, or the client may come
        again with its key and must find what became of it."""
        return self.needs_history or self.repeatable is not None


class _RepeatedError(Exception):
    """The request is an earlier one: its key stands for the holder's responses."""

    def __init__(self, holder: Holder) -> None:
        super().__init__(holder.first)
        self.holder = holder


def _told(decision: Repeated | Conflict) -> Exception:
    """What becomes of a request whose key is known."""
    if isinstance(decision, Conflict):
        return key_reused()
    return _RepeatedError(decision.holder)
