"""The whole service, wired in one place."""

import asyncio
import logging

from services.history.expiry import Sweep
from services.history.intake import HistoryHandler
from services.history.meter import watch
from services.history.ports import Ports
from services.history.recorder import Recorder
from services.history.retry import Patience
from services.history.settings import HistorySettings
from services.history.stores.measured import measured
from services.history.stores.port import Store
from services.history.stores.sqlite import SqliteStore
from services.history.usage import UsageMeter
from shared.arenas import share_arenas
from shared.chat import load_chat_tokenizer
from shared.control import ControlPlane, LogOutbox
from shared.ids import now_ms
from shared.lifetime import Lifetime, Stop
from shared.log import GroupConsumer, LogWriter, Replayer, prepare_log
from shared.service import appear, beat
from shared.topics import CONTEXT, EVENTS, HISTORY_QUERIES, METERS, RECORDERS, Service

log = logging.getLogger(__name__)


async def serve(settings: HistorySettings, stop: Stop, store: Store | None = None) -> None:
    """Run until `stop`, or until a part fails for good. Raises ChatmeshError."""
    share_arenas()
    async with Lifetime(stop, settings.shutdown_s) as life:
        heart, metrics = await appear(life, settings, Service.HISTORY)
        store = measured(store or store_of(settings), metrics)
        await prepare_log(settings, Service.HISTORY)
        writer = LogWriter(settings, Service.HISTORY, settings.service_id, metrics=metrics)
        replayer = Replayer(settings, Service.HISTORY, metrics=metrics)
        events = GroupConsumer(settings, Service.HISTORY, EVENTS, RECORDERS.name, metrics=metrics)
        meter = UsageMeter()
        usage = GroupConsumer(
            settings,
            Service.HISTORY,
            EVENTS,
            METERS.name,
            on_assigned=lambda numbers: meter.take_over(numbers, usage),
            on_revoked=lambda numbers: meter.give_up(numbers, usage),
            metrics=metrics,
        )
        outbox = LogOutbox(writer, Service.HISTORY)
        beat(life, heart)
        heart.update(detail="loading the tokenizer")
        counter = await asyncio.to_thread(load_chat_tokenizer, settings.model)
        heart.update(detail="opening the store")
        life.at_end("store", store.close)
        await Patience("store").until_available(store.open, timeout_s=settings.start_timeout_s)
        await life.start("log writer", writer)
        life.spawn("appends", writer.failed())
        await life.start("replayer", replayer)
        heart.update(detail="joining the consumer groups")
        ports = Ports(store, replayer, counter, now_ms, settings.partitions, settings.parent_wait_s)
        handlers = [(topic, HistoryHandler(topic, ports, outbox)) for topic in (CONTEXT, HISTORY_QUERIES)]
        control = ControlPlane(
            settings, Service.HISTORY, handlers, max_in_flight=settings.max_in_flight, metrics=metrics
        )
        await asyncio.gather(
            life.start("recorder group", events),
            life.start("control plane", control),
            life.start("usage group", usage),
        )
        life.at_end("usage", lambda: meter.commit(usage))
        recorder = Recorder(store, replayer, outbox)
        watch(metrics, recorder, meter)
        life.spawn("recorder", events.each(lambda batch: recorder.take(batch, events)))
        life.spawn("control plane", control.watch())
        life.spawn("usage", usage.each(meter.take))
        life.spawn("usage's commits", meter.keep_committing(usage))
        life.spawn("expiry", Sweep(store, now_ms).run())
        heart.update(state="ready", detail="", model=counter.model_id, revision=counter.revision)
        log.info("ready: answers from %s", store.name)
        await life.until_end()
        heart.update(state="draining")


def store_of(settings: HistorySettings) -> Store:
    """The store that the settings name, not open."""
    if not settings.mongodb_url.get_secret_value():
        return SqliteStore(settings.sqlite_file, retention=settings.retention)
    from services.history.stores.mongo import MongoStore  # its drivers take a while to import

    return MongoStore(settings.mongodb_url.get_secret_value(), settings.retention)
