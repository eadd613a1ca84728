"""The whole service, wired in one place."""

import asyncio
import logging
from contextlib import AsyncExitStack

from services.history.control import ControlPlane
from services.history.outbox import LogOutbox
from services.history.ports import Ports
from services.history.recorder import GROUP, Recorder
from services.history.settings import HistorySettings
from services.history.stores.port import Store
from services.history.stores.sqlite import SqliteStore
from shared.chat import load_chat_tokenizer
from shared.heartbeats import Heart
from shared.ids import new_id, now_ms
from shared.log import GroupConsumer, LogWriter, Replayer, ensure_topics, wait_for_broker
from shared.runtime import first_end
from shared.telemetry import start_telemetry
from shared.topics import EVENTS, Service

log = logging.getLogger(__name__)


async def serve(settings: HistorySettings, stop: asyncio.Event, store: Store | None = None) -> None:
    """Run until `stop`, or until a part fails for good. Raises ChatmeshError."""
    service_id = settings.service_id or new_id("history")
    async with AsyncExitStack() as running:
        running.callback(start_telemetry(Service.HISTORY, service_id))
        await wait_for_broker(settings, settings.start_timeout_s)
        await ensure_topics(settings)
        heart = Heart(settings, Service.HISTORY, service_id)
        heart.start()
        running.callback(heart.stop)

        heart.update(detail="loading the tokenizer")
        counter = await asyncio.to_thread(load_chat_tokenizer, settings.model)
        heart.update(detail="opening the store")
        store = store or SqliteStore(settings.sqlite_file)
        running.push_async_callback(store.close)
        await store.open()
        writer = LogWriter(settings, Service.HISTORY, service_id)
        running.push_async_callback(writer.stop)
        await writer.start()
        replayer = Replayer(settings, Service.HISTORY)
        running.push_async_callback(replayer.stop)
        await replayer.start()

        outbox = LogOutbox(writer)
        ports = Ports(store, replayer, counter, now_ms, settings.partitions, settings.parent_wait_s)
        events = GroupConsumer(settings, Service.HISTORY, EVENTS, GROUP)
        control = ControlPlane(settings, ports, outbox)
        running.push_async_callback(events.stop)
        running.push_async_callback(control.stop, settings.shutdown_s)
        heart.update(detail="joining the consumer groups")
        await asyncio.gather(events.start(), control.start())

        recording = asyncio.create_task(_record(Recorder(store, outbox), events), name="recorder")
        failing = asyncio.create_task(control.failed(), name="control plane")
        for task in (recording, failing):
            running.push_async_callback(_cancel, task)
        heart.update(state="ready", detail="", model=counter.model_id, revision=counter.revision)
        log.info("ready: answers from %s", settings.sqlite_file)
        await first_end(stop, recording, failing)
        heart.update(state="draining")


async def _record(recorder: Recorder, events: GroupConsumer) -> None:
    async for batch in events.batches():
        await recorder.take(batch, events)


async def _cancel(task: "asyncio.Task[None]") -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
