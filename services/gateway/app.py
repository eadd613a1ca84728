"""The whole service, wired in one place."""

import asyncio
import logging
from functools import partial

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match, Route, WebSocketRoute

from services.gateway.admission import Admission
from services.gateway.api.envelope import error_response
from services.gateway.api.measuring import Measured
from services.gateway.api.middleware import Gate, ReplyHeaders
from services.gateway.api.origins import CrossOrigin, Origins, parse_origins
from services.gateway.api.parts import Parts
from services.gateway.api.realtime import connect
from services.gateway.api.surface import PATHS, http_routes
from services.gateway.auth import ApiKeys, Authenticator, load_authenticator
from services.gateway.cancellation import Cancellation
from services.gateway.conversations import Conversations
from services.gateway.deletion import Deletion
from services.gateway.drain import Drain
from services.gateway.errors import SERVER_ERROR, ApiError
from services.gateway.fanout import Fanout, Scans
from services.gateway.history import History
from services.gateway.ingress import Ingress, Introduction, Repeats
from services.gateway.ledger import Ledger, RateLimits, load_rate_limits
from services.gateway.lookup import Lookup
from services.gateway.meter import GatewayMeter
from services.gateway.moderations import Moderations
from services.gateway.presence import JournalPresence
from services.gateway.replies import Replies
from services.gateway.settings import GatewaySettings
from services.gateway.web.descriptors import allow_streams
from services.gateway.web.server import Server, bind
from shared.arenas import share_arenas
from shared.chat import load_chat_tokenizer
from shared.errors import BrokerUnavailableError, RecordError
from shared.futures import error_of
from shared.heartbeats import Cluster, ClusterWatcher, Heart
from shared.lifetime import Lifetime, Stop
from shared.log import LogWriter, RawRecord, Replayer, Tail, note_lost, prepare_log, put_aside
from shared.log.outage import Outage
from shared.service import appear, beat
from shared.telemetry.metrics import Metrics
from shared.topics import EVENTS, LEDGER, Service

log = logging.getLogger(__name__)

REHOME_RETRY_S = 1.0
_SCANS_AT_ONCE = 4
_HEALTH = frozenset({"/healthz", "/readyz"})


async def serve(settings: GatewaySettings, stop: Stop) -> None:
    """Run until `stop`, or until a part fails for good; then drain. Raises ChatmeshError."""
    share_arenas()
    authenticator = load_authenticator(settings.api_keys, settings.host)
    limits = load_rate_limits(settings.rate_limits)
    allow_streams(settings.max_in_flight)
    gateway_id = settings.service_id
    with bind(settings) as bound:
        async with Lifetime(stop, settings.shutdown_s) as life:
            heart, metrics = await appear(life, settings, Service.GATEWAY)
            await prepare_log(settings, Service.GATEWAY)
            beat(life, heart)
            parts = await _connected(settings, gateway_id, authenticator, limits, life, heart, metrics)
            server = Server(make_app(parts), settings, bound)
            http = life.spawn("http", server.run_until_exit())
            life.at_end("http", lambda: server.leave(http))
            life.at_end("streams", lambda: _drain(parts.drain, settings, heart, stop), share=0.8)
            model = parts.tokenizer
            heart.update(state="ready", detail="", model=model.model_id, revision=model.revision)
            log.info("listens on %s:%d", *bound.getsockname()[:2])
            await life.until_end()


async def _connected(
    settings: GatewaySettings,
    gateway_id: str,
    authenticator: Authenticator,
    limits: RateLimits,
    life: Lifetime,
    heart: Heart,
    metrics: Metrics,
) -> Parts:
    """The parts, connected to the log; `life` ends them."""
    heart.update(detail="loading the tokenizer")
    tokenizer = await asyncio.to_thread(load_chat_tokenizer, settings.model)
    heart.update(detail="connecting to the log")
    writer = LogWriter(settings, Service.GATEWAY, gateway_id, metrics=metrics)
    scans = make_scans(settings, metrics)
    replies = Replies(settings, gateway_id, metrics=metrics)
    watcher = ClusterWatcher(settings, Service.GATEWAY, metrics=metrics)
    await life.start("writer", writer)
    life.spawn("appends", writer.failed())
    await life.start("replays", scans)
    await life.start("replies", replies)
    await life.start("cluster", watcher)
    presence = JournalPresence(writer, gateway_id)
    fanout = _fanout(settings, gateway_id, scans, presence, writer, metrics)
    meter = GatewayMeter(metrics)
    meter.watch(lambda: fanout.followed)
    life.at_end("fan-out", fanout.stop)
    await fanout.rehome(())
    heart.update(partitions=sorted(fanout.home))
    admission = make_admission(settings, watcher.cluster, tokenizer.model_id)
    ledger = await _ledger(settings, gateway_id, writer, limits, life, metrics)
    history = History(writer, replies, settings.query_timeout_s)
    introduction = Introduction(admission, writer, replies, presence)
    repeats = Repeats(ledger, fanout, writer, watcher.cluster, settings.silent_after_s)
    ingress = Ingress(settings, admission, tokenizer, watcher.cluster, fanout, introduction, ledger, repeats, history)
    life.at_end("introductions", ingress.stop)
    life.watch(watcher.task)
    life.spawn("replies", replies.run())
    life.spawn("followers", fanout.failed())
    life.spawn("homes", _keep_home(fanout, watcher, heart))
    life.spawn("admission", _measure(admission, settings.heartbeat_ms / 1000))
    lookup = Lookup(settings, fanout, scans.replay, history)
    cancellation = Cancellation(lookup, writer, settings.cancel_timeout_s)
    return Parts(
        settings=settings,
        authenticator=authenticator,
        admission=admission,
        drain=Drain(),
        ingress=ingress,
        ledger=ledger,
        lookup=lookup,
        cancellation=cancellation,
        deletion=Deletion(lookup, cancellation, history, writer, settings.cancel_timeout_s),
        history=history,
        conversations=Conversations(history, ledger),
        moderations=Moderations(
            writer, replies, ledger, watcher.cluster, settings.moderation_timeout_s, settings.max_moderations
        ),
        fanout=fanout,
        cluster=watcher.cluster,
        tokenizer=tokenizer,
        meter=meter,
    )


async def _ledger(
    settings: GatewaySettings,
    gateway_id: str,
    writer: LogWriter,
    limits: RateLimits,
    life: Lifetime,
    metrics: Metrics,
) -> Ledger:
    """The ledger, once it has read what can still matter."""
    tail = Tail(settings, Service.GATEWAY, LEDGER, skips_gone=True, metrics=metrics)
    ledger = Ledger(settings, gateway_id, writer, limits, tail)
    await life.start("ledger", ledger)
    life.spawn("ledger", ledger.run())
    await ledger.caught_up()
    return ledger


async def _drain(drain: Drain, settings: GatewaySettings, heart: Heart, stop: Stop) -> None:
    """Where a part of ours failed, streams stand still already: their clients had better go on elsewhere at once."""
    heart.update(state="draining")
    await drain.run(settings.grace_s if stop.is_set() else 0.0, stop.hurried)


def make_app(parts: Parts) -> Starlette:
    """The routes over `parts`."""
    allowed = parse_origins(parts.settings.allowed_origins)
    origins = Origins(allowed, same_host=isinstance(parts.authenticator, ApiKeys))
    app = Starlette(
        routes=[*http_routes(), WebSocketRoute("/v1/responses", connect)],
        middleware=[
            Middleware(Measured, meter=parts.meter, endpoints=PATHS, probed=_HEALTH),
            Middleware(ReplyHeaders, ledger=parts.ledger),
            Middleware(CrossOrigin, origins=origins),
            Middleware(Gate, drain=parts.drain, health=_HEALTH),
        ],
        exception_handlers={ApiError: _api_error, HTTPException: _http_exception, Exception: _unexpected},
    )
    # A redirect would take its host from the request, and no path here ends in a slash.
    app.router.redirect_slashes = False
    app.state.parts = parts
    return app


def make_admission(settings: GatewaySettings, cluster: Cluster, model: str) -> Admission:
    """Admission by the beats in `cluster`."""
    return Admission(
        cluster,
        model,
        max_in_flight=settings.max_in_flight,
        max_waiting=settings.max_waiting,
        # An owner counts the job at its next tick, a worker at its claim; the beat after that shows it.
        settle_s=2 * settings.heartbeat_ms / 1000,
        blind_after_s=3 * settings.silent_after_s,
    )


def make_scans(settings: GatewaySettings, metrics: Metrics | None = None) -> Scans:
    """Replays over connections of their own."""
    readers = [Replayer(settings, Service.GATEWAY, metrics=metrics) for _ in range(_SCANS_AT_ONCE + 1)]
    longest_s = max(settings.deadline_s, settings.background_deadline_s)
    return Scans(readers[1:], readers[0], recent_s=longest_s + settings.skew_margin_s)


def _fanout(
    settings: GatewaySettings,
    gateway_id: str,
    scans: Scans,
    presence: JournalPresence,
    writer: LogWriter,
    metrics: Metrics,
) -> Fanout:
    return Fanout(
        gateway_id,
        settings.partitions,
        make_tail=lambda: Tail(settings, Service.GATEWAY, EVENTS, metrics=metrics),
        replay=scans.replay,
        presence=presence,
        put_aside=lambda record, error: _put_aside(writer, record, error),
        buffer_bytes=settings.buffer_bytes,
    )


def _put_aside(writer: LogWriter, record: RawRecord, error: RecordError) -> None:
    log.error("unreadable event at %d/%d: %s", record.partition, record.offset, error)
    letter = asyncio.ensure_future(put_aside(writer, Service.GATEWAY, EVENTS, record, error))
    letter.add_done_callback(partial(_note_lost_letter, writer, record))


def _note_lost_letter(writer: LogWriter, record: RawRecord, done: "asyncio.Future[bool]") -> None:
    error = error_of(done)
    if isinstance(error, Exception):
        note_lost(writer, EVENTS, record, error)


async def _measure(admission: Admission, every_s: float) -> None:
    while True:
        admission.observe()
        await asyncio.sleep(every_s)


async def _keep_home(fanout: Fanout, watcher: ClusterWatcher, heart: Heart) -> None:
    """Move home whenever gateways come or go; while the log does not answer, the old home serves on."""
    outage = Outage(log, "moves to other home partitions")
    changed = asyncio.Event()
    watcher.on_change(lambda _: changed.set())
    while True:
        await changed.wait()
        changed.clear()
        gateways = [member.beat.id for member in watcher.cluster.alive(Service.GATEWAY, ready=True)]
        try:
            if await fanout.rehome(gateways):
                heart.update(partitions=sorted(fanout.home))
        except BrokerUnavailableError as error:
            outage.failed(error)
            await asyncio.sleep(REHOME_RETRY_S)
            changed.set()
        else:
            outage.over()


async def _api_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return _refused(request, error)


def _refused(request: Request, error: ApiError) -> Response:
    parts: Parts = request.app.state.parts
    parts.meter.refused(error)
    return error_response(error)


async def _http_exception(request: Request, error: Exception) -> Response:
    """No such route (404), not this method (405)."""
    assert isinstance(error, HTTPException)
    message = f"Invalid request: {request.method} {request.url.path[:200]} is not served here ({error.detail})."
    headers = {"allow": _methods_at(request)} if error.status_code == 405 else error.headers
    return _refused(request, ApiError(error.status_code, message, headers=headers))


def _methods_at(request: Request) -> str:
    """All methods of the path, as `Allow` must name them (RFC 9110, 15.5.6); Starlette names those of one route."""
    routes = [route for route in request.app.routes if isinstance(route, Route)]
    found = [route.methods or set() for route in routes if route.matches(request.scope)[0] is not Match.NONE]
    return ", ".join(sorted(set().union(*found)))


async def _unexpected(request: Request, _: Exception) -> Response:
    """A bug: uvicorn logs it, the client learns nothing of its inside."""
    message = "The server had an error while processing your request."
    return _refused(request, ApiError(500, message, code=SERVER_ERROR, error_type=SERVER_ERROR))
