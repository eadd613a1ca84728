"""Prints every finished response of a chatmesh: how it ended, what it used, how it begins. Ctrl-C ends it.

It reads the public topic `responses.events` in a consumer group: several of these share the work, and one that is
started again goes on where the group was. After a fault a response may be printed twice (at least once): whoever stores
them does so by the response's id. docs/events.md has the rules that this program follows.
"""

import asyncio
import json
import os
import sys
from collections import OrderedDict
from contextlib import suppress
from itertools import chain
from math import inf
from signal import SIGINT, SIGTERM, default_int_handler, getsignal, signal

from aiokafka import AIOKafkaConsumer
from aiokafka.errors import CommitFailedError, KafkaError
from connection import BROKER, GROUP, TOPIC, security

ENDS = {"completed", "incomplete", "failed", "cancelled"}
REMEMBERED = 100_000  # responses
LEAVING_S = 3


def finished(message, epochs):
    """The event that ends a response, the first time that it counts; None for every other message.

    `epochs`: response id → the highest epoch seen of it, infinite once it has ended.
    """
    kind = (dict(message.headers).get("ce_type") or b"").decode().removeprefix("chatmesh.")
    if kind not in ENDS | {"accepted", "screening"}:
        return None  # text on its way, which most messages are: no need to decode it; or a type that came later
    event = json.loads(message.value)
    response_id, epoch = event["response_id"], event.get("epoch", 0)
    if epoch < epochs.get(response_id, 0):
        return None  # a copy of its end, or from a writer that another one had replaced
    epochs[response_id] = inf if kind in ENDS else epoch
    if len(epochs) > REMEMBERED:
        epochs.popitem(last=False)
    return event if kind in ENDS else None


def shown(event):
    used, text = event["usage"], json.dumps(event["text"][:60], ensure_ascii=False)
    return f"{event['response_id']} {event['type']} {used['input_tokens']}+{used['output_tokens']} tokens {text}"


def line(message, epochs):
    """What to print of a message, None if nothing. One that is no record of chatmesh is told and stops nobody."""
    try:
        event = finished(message, epochs)
        return None if event is None else shown(event)
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        print(f"leaves out {message.partition}@{message.offset}: {error!r}", file=sys.stderr)


async def start(consumer):
    try:
        await consumer.start()
    except ValueError:
        raise SystemExit(f"error: KAFKA_BOOTSTRAP_SERVERS: {BROKER} is no list of host:port") from None


async def commit(consumer):
    """To its end, also when it is told to end meanwhile: a commit that is cut off goes on and fails as it is closed."""
    committing = asyncio.ensure_future(consumer.commit())
    try:
        await asyncio.shield(committing)
    except asyncio.CancelledError:
        with suppress(TimeoutError, KafkaError):
            await asyncio.wait_for(committing, LEAVING_S)
        raise
    except CommitFailedError:
        pass  # others have the partitions now, and will print these again


async def main():
    epochs = OrderedDict()
    consumer = AIOKafkaConsumer(
        TOPIC,
        bootstrap_servers=BROKER,
        group_id=GROUP,
        auto_offset_reset="earliest",
        enable_auto_commit=False,
        **security(),
    )
    signal(SIGTERM, getsignal(SIGINT))  # both cancel what is awaited here
    try:
        await start(consumer)
        while True:
            batches = await consumer.getmany(timeout_ms=500)
            for message in chain.from_iterable(batches.values()):
                if text := line(message, epochs):
                    print(text, flush=True)
            if batches:
                await commit(consumer)
    finally:
        with suppress(TimeoutError):  # its broker is away, and will notice by itself
            await asyncio.wait_for(consumer.stop(), LEAVING_S)


def run():
    """Until it is told to end."""
    signal(SIGINT, default_int_handler)  # a script that starts it with & has SIGINT ignored, and SIGTERM would be too
    with suppress(KeyboardInterrupt):
        asyncio.run(main())


if __name__ == "__main__":
    try:
        run()
    except KafkaError as error:
        raise SystemExit(f"error: {error} (KAFKA_BOOTSTRAP_SERVERS: {BROKER})") from None
    except OSError as error:  # nobody reads what is printed any more, or the disk is full
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else Python tries again as it ends
        raise SystemExit(None if isinstance(error, BrokenPipeError) else f"error: {error}") from None
