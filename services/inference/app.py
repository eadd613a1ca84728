"""Wiring of the inference service, and its life from start to drain."""

import asyncio
import logging

from services.inference.engines import Engine, build_engine
from services.inference.mailbox import Mailbox
from services.inference.meter import InferenceMeter
from services.inference.settings import InferenceSettings
from services.inference.worker import Worker
from shared.chat import ChatTokenizer, load_chat_tokenizer
from shared.heartbeats import Heart
from shared.lifetime import Lifetime, Stop
from shared.log import GroupConsumer, LogWriter, Replayer, prepare_log
from shared.service import appear, beat
from shared.topics import JOBS, WORKERS, Service

log = logging.getLogger(__name__)
ANNOUNCE_S = 1.0
"""How long a draining worker waits until others can know of it."""


async def serve(settings: InferenceSettings, stop: Stop) -> None:
    """Load the model, take mail until `stop`, then release what is held and leave the group. Raises ChatmeshError."""
    service_id = settings.service_id
    async with Lifetime(stop, settings.shutdown_s) as life:
        heart, metrics = await appear(life, settings, Service.INFERENCE, steps=lambda: engine.steps)
        tokenizer, engine = await _built(settings, heart)
        heart.update(detail="connecting to the log")
        await prepare_log(settings, Service.INFERENCE)
        writer = LogWriter(settings, Service.INFERENCE, service_id, metrics=metrics)
        replayer = Replayer(settings, Service.INFERENCE, metrics=metrics)
        meter = InferenceMeter(metrics)
        meter.watch(lambda: heart.beat, lambda: engine.steps)
        worker = Worker(service_id, engine, tokenizer, writer, replayer, heart, meter)
        group = GroupConsumer(
            settings,
            Service.INFERENCE,
            JOBS,
            WORKERS.name,
            on_assigned=worker.on_assigned,
            on_revoked=worker.on_revoked,
            metrics=metrics,
        )
        info = engine.info
        heart.update(model=info.id, revision=info.revision, context_window=info.context_window, slots_total=info.slots)
        await life.start("log writer", writer)
        life.spawn("appends", writer.failed())
        beat(life, heart)
        await life.start("replayer", replayer)
        life.at_end("engine", engine.close)
        await engine.start(worker.on_outputs, lambda line: _progress(heart, line))
        await life.start("mailbox", group)
        life.spawn("mail", group.each(Mailbox(worker, writer, group).take))
        life.spawn("engine watch", worker.keep_engine_alive())
        life.at_end("generations", lambda: worker.drain(ANNOUNCE_S))
        heart.update(state="ready", detail="", slots_free=info.slots)
        log.info("serves %s (window %d tokens, %d slots)", info.id, info.context_window, info.slots)
        await life.until_end()


async def _built(settings: InferenceSettings, heart: Heart) -> tuple[ChatTokenizer, Engine]:
    """In a thread: the event loop answers meanwhile. What cannot be loaded is told before the log is asked for."""
    heart.update(detail="loading the tokenizer")
    tokenizer = await asyncio.to_thread(load_chat_tokenizer, settings.model)
    heart.update(detail="building the engine")
    return tokenizer, await asyncio.to_thread(build_engine, settings.engine_settings(), tokenizer)


def _progress(heart: Heart, line: str) -> None:
    log.debug("%s", line)
    heart.update(detail=line)
