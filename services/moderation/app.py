"""Wiring of the moderation service, and its life from start to hand-over."""

import asyncio
import logging
from functools import partial

from services.moderation.backends.building import build_backend
from services.moderation.judging import JudgePool, judge_texts
from services.moderation.meter import ModerationMeter
from services.moderation.owner.dispatcher import Dispatcher
from services.moderation.owner.outbox import Outbox
from services.moderation.owner.owner import Owner
from services.moderation.owner.screening import Screener
from services.moderation.owner.watch import WatchLimits
from services.moderation.policy import load_policy
from services.moderation.policy.rollout import Rollout
from services.moderation.policy.shelf import PolicyShelf
from services.moderation.queries import ModerationQueries
from services.moderation.settings import ModerationSettings
from shared.errors import LogError
from shared.heartbeats import Cluster, ClusterWatcher, Heart
from shared.lifetime import Lifetime, Stop
from shared.log import GroupConsumer, LogWriter, Replayer, prepare_log
from shared.service import appear, beat
from shared.topics import JOURNAL, OWNERS, Service

log = logging.getLogger(__name__)
_RETIRE_EVERY_S = 5.0


async def serve(settings: ModerationSettings, stop: Stop) -> None:
    """Own the assigned partitions until `stop`, then commit and leave the group."""
    service_id = settings.service_id
    policy = load_policy(settings.policy)
    async with Lifetime(stop, settings.shutdown_s) as life:
        heart, metrics = await appear(life, settings, Service.MODERATION)
        await prepare_log(settings, Service.MODERATION)
        writer = LogWriter(settings, Service.MODERATION, service_id, metrics=metrics)
        replayer = Replayer(settings, Service.MODERATION, metrics=metrics)
        watcher = ClusterWatcher(settings, Service.MODERATION, metrics=metrics)
        meter = ModerationMeter(metrics)
        judges = JudgePool(partial(build_backend, threads=settings.classifier_threads), meter=meter)
        shelf = PolicyShelf(replayer, writer)
        policies = Rollout(policy, settings.policy, shelf, judges.prepare, every_s=settings.policy_reload_s)
        queries = ModerationQueries(
            settings,
            writer,
            lambda tenant, texts: judge_texts(judges.judge(policies.current.of(tenant)), texts),
            metrics=metrics,
        )
        owner = _owner(settings, service_id, policies, judges, writer, replayer, watcher.cluster, meter)
        meter.watch(owner)
        journal = GroupConsumer(
            settings,
            Service.MODERATION,
            JOURNAL,
            OWNERS.name,
            on_assigned=lambda numbers: _take_over(owner, journal, numbers),
            on_revoked=owner.drop,
            metrics=metrics,
        )
        await life.start("log writer", writer)
        life.spawn("appends", writer.failed())
        beat(life, heart)
        await life.start("replayer", replayer)
        await life.start("heartbeats of others", watcher)
        life.watch(watcher.task)
        life.at_end("backends", judges.close)
        await policies.start()
        life.spawn("policy", policies.watch())
        await asyncio.gather(life.start("journal group", journal), life.start("questions", queries))
        life.at_end("low watermarks", lambda: _commit(owner, journal))
        life.spawn("journal", journal.each(owner.on_records))
        life.spawn("judgements", owner.follow_judgements())
        life.spawn("watch", _watch(owner, policies, journal, heart, settings))
        life.spawn("unused backends", _retire(judges, policies, owner))
        life.spawn("questions", queries.watch())
        heart.update(state="ready")
        await life.until_end()
        heart.update(state="draining", partitions=[])


def _owner(
    settings: ModerationSettings,
    service_id: str,
    policies: Rollout,
    judges: JudgePool,
    writer: LogWriter,
    replayer: Replayer,
    cluster: Cluster,
    meter: ModerationMeter,
) -> Owner:
    outbox = Outbox(writer, meter)
    dispatcher = Dispatcher(outbox, cluster, WatchLimits.of(settings), settings.max_waiting, meter)
    screener = Screener(policies, judges, outbox, dispatcher, meter)
    return Owner(settings, service_id, screener, dispatcher, outbox, replayer, cluster, meter)


async def _take_over(owner: Owner, journal: GroupConsumer, numbers: list[int]) -> None:
    """Own the partitions from their committed offsets on."""
    generation = journal.generation
    await owner.take_over({n: (await journal.position(n), await journal.end_offset(n)) for n in numbers}, generation)


async def _watch(
    owner: Owner, policies: Rollout, journal: GroupConsumer, heart: Heart, settings: ModerationSettings
) -> None:
    """Tick, tell the others what we own, commit now and then, heal partitions where an append failed."""
    loop = asyncio.get_running_loop()
    commit_at = loop.time() + settings.commit_every_s
    while True:
        broken = await owner.tick()
        policy = policies.current
        heart.update(
            partitions=owner.live_partitions, waiting=owner.waiting, model=policy.version, revision=policy.name
        )
        for number in broken:
            try:
                await heal(owner, journal, number)
            except LogError as error:
                log.warning("partition %d is still broken: %s", number, error)  # the next tick tries again
                break
        if loop.time() >= commit_at:
            await _commit(owner, journal)
            commit_at = loop.time() + settings.commit_every_s
        await asyncio.sleep(settings.tick_ms / 1000)


async def _retire(judges: JudgePool, policies: Rollout, owner: Owner) -> None:
    """Free the backends of policies that were replaced, once no response is judged by them any more."""
    while True:
        await asyncio.sleep(_RETIRE_EVERY_S)
        await judges.retire([policies.current, *owner.policies])


async def heal(owner: Owner, journal: GroupConsumer, number: int) -> None:
    """What is public there is unknown since an append failed: fold the partition again from the low watermark."""
    end = await journal.end_offset(number)
    start = await owner.restart_offset(number)
    if start is not None:
        # Nothing may be awaited between these two: what is read again must find the fresh fold, and a batch from
        # before the seek must not (it waits for the owner already, and comes first).
        journal.seek(number, start)
        await owner.take_over_anew(number, start, end)


async def _commit(owner: Owner, journal: GroupConsumer) -> None:
    for number, offset in owner.low_watermarks().items():
        try:
            if await journal.commit(number, offset):
                owner.committed(number, offset)
        except LogError as error:
            # An old watermark costs a successor only time; the next round tries again.
            log.warning("%s", error)
