"""`python -m deploy.topics create|check|acls`: the topics and access lists of a mesh, from the registry.

create   make the topics that are missing (then services may run with CHATMESH_CREATE_TOPICS=false)
check    compare the topics with the registry: exit status 1 where they differ
acls     print which principal needs which rights: as kafka-acls.sh takes them, or as JSON; --apply grants them

The broker is KAFKA_BOOTSTRAP_SERVERS, and KAFKA_* say how to get in; CHATMESH_NAMESPACE, CHATMESH_PARTITIONS,
CHATMESH_REPLICATION_FACTOR and CHATMESH_MIN_INSYNC_REPLICAS say which topics.
"""

import argparse
import asyncio
import sys
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from deploy.topics import acls, differences
from shared.errors import ChatmeshError
from shared.log.admin import ensure_topics, wait_for_broker
from shared.log.granting import grant
from shared.settings import MeshSettings, load_settings
from shared.telemetry.logs import setup_logging
from shared.topics import REGISTRY, Service

Command = Callable[[MeshSettings, argparse.Namespace], Coroutine[Any, Any, int]]


def main(argv: Sequence[str]) -> int:
    """0, or 1 where something failed or differs."""
    options = _parser().parse_args(argv)
    try:
        settings = load_settings(MeshSettings)
        setup_logging(settings)
        run: Command = options.run
        return asyncio.run(run(settings, options))
    except ChatmeshError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


async def _create(settings: MeshSettings, _: argparse.Namespace) -> int:
    await wait_for_broker(settings, settings.start_timeout_s)
    made = await ensure_topics(settings)
    for name in made:
        print(f"made {name}")
    print(f"{len(REGISTRY)} topics, {len(made)} of them new")
    return 0


async def _check(settings: MeshSettings, _: argparse.Namespace) -> int:
    await wait_for_broker(settings, settings.start_timeout_s)
    found = await differences.find(settings)
    for line in found:
        print(line)
    print(f"{len(REGISTRY)} topics, {len(found) or 'no'} difference{'' if len(found) == 1 else 's'}")
    return 1 if found else 0


async def _acls(settings: MeshSettings, options: argparse.Namespace) -> int:
    services = dict.fromkeys(Service, options.one_principal) if options.one_principal else {}
    names = {**services, **dict(options.principal)}
    grants = acls.grants(settings.namespace, names=names, consumers=options.consumer)
    if options.apply:
        await wait_for_broker(settings, settings.start_timeout_s)
        print(f"{await grant(settings, grants)} entries granted")
    else:
        print(acls.FORMATS[options.format](grants, settings.bootstrap_servers))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m deploy.topics", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True, metavar="create|check|acls")
    commands.add_parser("create", help="make the topics that are missing").set_defaults(run=_create)
    commands.add_parser("check", help="compare the topics with the registry").set_defaults(run=_check)
    lists = commands.add_parser("acls", help="which principal needs which rights")
    lists.set_defaults(run=_acls)
    lists.add_argument("--format", choices=sorted(acls.FORMATS), default="kafka", help="(kafka)")
    lists.add_argument("--apply", action="store_true", help="grant them at the broker, as a super user of it")
    lists.add_argument(
        "--one-principal",
        metavar="NAME",
        type=_principal,
        help="all four services come as User:NAME, as with `make run` on your broker",
    )
    lists.add_argument(
        "--principal",
        metavar="WHO=NAME",
        type=_known_as,
        action="append",
        default=[],
        help=f"WHO ({', '.join(acls.OF_THE_MESH)}) comes as User:NAME instead: as a certificate's whole subject, say",
    )
    lists.add_argument(
        "--consumer",
        metavar="NAME",
        type=_principal,
        action="append",
        default=[],
        help="also let User:NAME read the public topics",
    )
    return parser


def _principal(text: str) -> str:
    """A principal's name, also where it is written as access lists write it."""
    if not (name := text.removeprefix("User:")):
        raise argparse.ArgumentTypeError("the name is missing")
    return name


def _known_as(text: str) -> tuple[str, str]:
    who, _, name = text.partition("=")
    if who not in acls.OF_THE_MESH:
        raise argparse.ArgumentTypeError(f"{text!r} is not WHO=NAME with WHO one of {', '.join(acls.OF_THE_MESH)}")
    return who, _principal(name)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
