"""Wiring of the inference service, and its life from start to drain."""

import asyncio
import contextlib
import logging

from services.inference.engines import build_engine
from services.inference.settings import InferenceSettings
from services.inference.worker import Worker
from shared.chat import load_chat_tokenizer
from shared.heartbeats import Heart
from shared.ids import new_id
from shared.log import GroupConsumer, LogWriter, Replayer
from shared.runtime import first_end
from shared.telemetry import start_telemetry
from shared.topics import JOBS, Service

log = logging.getLogger(__name__)
GROUP = "inference"


async def serve(settings: InferenceSettings, stop: asyncio.Event) -> None:
    """Load the model, take mail until `stop`, then release what is held and leave the group."""
    service_id = settings.service_id or new_id("inference")
    flush_traces = start_telemetry(Service.INFERENCE, service_id)
    tokenizer = load_chat_tokenizer(settings.model)
    engine = build_engine(settings.engine_settings())
    heart = Heart(settings, Service.INFERENCE, service_id, steps=lambda: engine.steps)
    writer = LogWriter(settings, Service.INFERENCE, service_id)
    replayer = Replayer(settings, Service.INFERENCE)
    worker = Worker(service_id, engine, tokenizer, writer, replayer, heart)

    async def assigned(mailboxes: list[int]) -> None:
        worker.on_assigned(mailboxes)

    async def revoked(_: list[int]) -> None:
        worker.on_assigned(())

    mailbox = GroupConsumer(settings, Service.INFERENCE, JOBS, GROUP, on_assigned=assigned, on_revoked=revoked)

    async def take_mail() -> None:
        async for batch in mailbox.batches():
            await worker.on_mail(batch, mailbox)

    def progress(line: str) -> None:
        log.debug("%s", line)
        heart.update(detail=line)

    info = engine.info
    heart.update(model=info.id, revision=info.revision, context_window=info.context_window, slots_total=info.slots)
    async with contextlib.AsyncExitStack() as stack:
        await writer.start()
        stack.push_async_callback(writer.stop)
        heart.start()
        stack.callback(flush_traces)
        stack.push_async_callback(asyncio.to_thread, heart.stop)
        await replayer.start()
        stack.push_async_callback(replayer.stop)
        await engine.start(worker.on_outputs, progress)
        stack.push_async_callback(engine.close)
        await mailbox.start()
        stack.push_async_callback(mailbox.stop)
        heart.update(state="ready", detail="", slots_free=info.slots)
        log.info("serves %s (window %d tokens, %d slots)", info.id, info.context_window, info.slots)
        mail = asyncio.create_task(take_mail(), name="mailbox")
        engine_watch = asyncio.create_task(worker.keep_engine_alive(), name="engine watch")
        try:
            await first_end(stop, mail, engine_watch)
        finally:
            heart.update(state="draining")
            worker.release_all("the worker shuts down")
            mail.cancel()
            engine_watch.cancel()
            await asyncio.gather(mail, engine_watch, return_exceptions=True)
            await worker.settle()
