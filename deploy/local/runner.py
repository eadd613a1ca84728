"""One local run from start to end."""

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from deploy.brokers import Broker, BrokerError
from deploy.brokers.select import broker_for_run
from deploy.local import preflight
from deploy.local.errors import RunError
from deploy.local.hints import hints
from deploy.local.logs import ErrorFollower
from deploy.local.mesh import Mesh
from deploy.local.progress import Row, State, gateway_row, service_row
from deploy.local.readiness import answers_ready, sign_of
from deploy.local.screen import Screen
from deploy.local.settings import LocalSettings, mesh_environment, service_ids
from deploy.local.targets import management_ports, told_to_prometheus
from deploy.process import Deadline
from deploy.tracing.settings import OTLP_ENDPOINT, export_environment
from shared.errors import ChatmeshError
from shared.heartbeats import ClusterWatcher
from shared.log.admin import prepare_log
from shared.settings import load_settings
from shared.topics import REGISTRY, Outsider, Service

Announce = Callable[[Mapping[str, str]], None]
"""Tells other programs on this machine by which variables they reach the broker."""

_TICK_S = 0.1


@dataclass
class Signals:
    """`stop` after the first SIGINT, SIGTERM or SIGHUP; `hurry` after the second."""

    stop: asyncio.Event = field(default_factory=asyncio.Event)
    hurry: asyncio.Event = field(default_factory=asyncio.Event)

    def take(self) -> None:
        (self.hurry if self.stop.is_set() else self.stop).set()

    @contextlib.contextmanager
    def handled(self) -> Iterator[None]:
        """Take the signals of this process for the length of the block."""
        loop, numbers = asyncio.get_running_loop(), (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        for number in numbers:
            loop.add_signal_handler(number, self.take)
        try:
            yield
        finally:
            for number in numbers:
                loop.remove_signal_handler(number)


async def run(settings: LocalSettings, screen: Screen) -> int:
    """Exit code 0 after a signal, 1 when something failed; every process has ended when this returns."""
    signals = Signals()
    try:
        with preflight.only_run(settings) as announce, signals.handled():
            preflight.check(settings)
            return await _run(settings, screen, signals, announce)
    except (ChatmeshError, BrokerError) as error:
        screen.say(f"error: {error}")
        return 1


async def _run(settings: LocalSettings, screen: Screen, signals: Signals, announce: Announce) -> int:
    broker = broker_for_run(log_path=settings.log_dir / "broker.log")
    ids = service_ids(os.getpid())
    mesh = Mesh(broker, settings.log_dir, ids)
    work = asyncio.create_task(_serve(settings, screen, mesh, ids, announce), name="mesh")
    stopping = asyncio.create_task(signals.stop.wait(), name="stop")
    try:
        await asyncio.wait({work, stopping}, return_when=asyncio.FIRST_COMPLETED)
        screen.settle()
        return 0 if signals.stop.is_set() else _told(work, screen)
    finally:
        stopping.cancel()
        work.cancel()
        await asyncio.wait({work, stopping})
        screen.say("stopping: gateway first, then the rest; Ctrl-C again kills at once")
        await mesh.shut_down(Deadline(settings.shutdown_s), signals.hurry, screen.say)
        screen.say("stopped")


def _told(work: "asyncio.Task[None]", screen: Screen) -> int:
    """Say why the work ended by itself; exit code 1. Raises what is no error of ours."""
    try:
        work.result()
    except (ChatmeshError, BrokerError) as error:
        screen.say(f"error: {error}")
    return 1


async def _serve(
    settings: LocalSettings, screen: Screen, mesh: Mesh, ids: dict[Service, str], announce: Announce
) -> None:
    """Bring everything up, then watch it for ever. Raises RunError when a part ends by itself."""
    _start_broker(mesh.broker, screen)
    traces = export_environment(os.environ, settings.data_dir)
    announce({"KAFKA_BOOTSTRAP_SERVERS": mesh.broker.bootstrap, "CHATMESH_NAMESPACE": settings.namespace, **traces})
    common = {**mesh_environment(settings, mesh.broker), **traces}
    joined = load_settings(
        LocalSettings,
        KAFKA_BOOTSTRAP_SERVERS=mesh.broker.bootstrap,
        partitions=int(common.get("CHATMESH_PARTITIONS", settings.partitions)),
    )
    await prepare_log(joined, None)
    screen.say(f"topics: {len(REGISTRY)}, {joined.partitions} partitions for responses")
    watcher = ClusterWatcher(joined, Outsider.OPERATOR)
    await watcher.start()
    followers = {service: ErrorFollower(mesh.log_path(service)) for service in Service}
    ports = management_ports(settings.management_port)
    try:
        mesh.start_services(common, ports)
        with told_to_prometheus(settings.targets_file, ports):
            await _until_ready(settings, screen, mesh, watcher, ids, followers)
            model = _model(watcher, ids)
            in_memory = not mesh.broker.capabilities.persistent
            screen.settle()
            ui = traces.get(OTLP_ENDPOINT)
            log_dir, targets_file = str(settings.log_dir), str(settings.targets_file)
            screen.say(hints(settings.address, model, log_dir, targets_file, in_memory=in_memory, trace_ui=ui))
            await _watch(screen, mesh, watcher, followers)
    finally:
        await watcher.stop()


def _start_broker(broker: Broker, screen: Screen) -> None:
    begin = time.monotonic()
    broker.start()
    screen.say(f"broker: {broker.name} at {broker.bootstrap} ({time.monotonic() - begin:.1f} s)")


async def _until_ready(
    settings: LocalSettings,
    screen: Screen,
    mesh: Mesh,
    watcher: ClusterWatcher,
    ids: dict[Service, str],
    followers: dict[Service, ErrorFollower],
) -> None:
    begin = time.monotonic()
    done_s: dict[str, float] = {}
    while True:
        _raise_if_ended(mesh, watcher)
        _show_errors(screen, followers)
        waited_s = time.monotonic() - begin
        rows = [_row(service, watcher, ids, done_s.get(service.value, waited_s), mesh) for service in Service]
        rows = [gateway_row(row, await _answers(row, settings.port)) for row in rows]
        for row in rows:
            if row.state is State.READY:
                done_s.setdefault(row.name, waited_s)
        screen.rows(rows)
        if all(row.state is State.READY for row in rows):
            return
        await asyncio.sleep(_TICK_S)


def _row(service: Service, watcher: ClusterWatcher, ids: dict[Service, str], waited_s: float, mesh: Mesh) -> Row:
    return service_row(service.value, sign_of(watcher, ids[service]), waited_s, str(mesh.log_path(service)))


async def _answers(row: Row, port: int) -> bool:
    return row.name != Service.GATEWAY.value or row.state is not State.READY or await answers_ready(port)


async def _watch(screen: Screen, mesh: Mesh, watcher: ClusterWatcher, followers: dict[Service, ErrorFollower]) -> None:
    while True:
        _raise_if_ended(mesh, watcher)
        _show_errors(screen, followers)
        await asyncio.sleep(_TICK_S)


def _raise_if_ended(mesh: Mesh, watcher: ClusterWatcher) -> None:
    mesh.raise_if_ended()
    if watcher.task.done():
        watcher.task.result()


def _show_errors(screen: Screen, followers: dict[Service, ErrorFollower]) -> None:
    for service, follower in followers.items():
        for line in follower.new_errors():
            screen.say(f"[{service.value}] {line}")


def _model(watcher: ClusterWatcher, ids: dict[Service, str]) -> str:
    member = watcher.cluster.members.get(ids[Service.INFERENCE])
    if member is None:
        raise RunError("inference fell silent while it was starting")
    return member.beat.model
