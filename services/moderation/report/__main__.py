"""`python -m services.moderation.report`: reads the verdicts of a running mesh, and prints what they come to."""

import asyncio
import json
import logging
import os
import sys
from collections.abc import AsyncIterator, Callable, Sequence

import msgspec

from services.moderation.report.options import Options, parse
from services.moderation.report.rendering import render, render_verdict
from services.moderation.report.summary import Summary, as_json
from shared.errors import ChatmeshError, RecordError
from shared.ids import now_ms
from shared.log import RawRecord, Tail, decode, existing_partitions
from shared.records import Verdict
from shared.settings import MeshSettings, load_settings
from shared.telemetry import setup_logging
from shared.topics import VERDICTS, Outsider

log = logging.getLogger(__name__)

Say = Callable[[str], None]


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status 0, also after Ctrl-C; 1 if the verdicts cannot be read."""
    options = parse(arguments)
    try:
        settings = load_settings(MeshSettings)
        setup_logging(settings)
        asyncio.run(report(settings, options, _print))
    except KeyboardInterrupt:
        return 0
    except BrokenPipeError:  # whoever read this, `head` say, has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except ChatmeshError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


async def report(settings: MeshSettings, options: Options, say: Say) -> None:
    """Read the log up to its end and say what it comes to; with `follow`, go on until cancelled. Raises
    ChatmeshError."""
    tail = await _tail(settings, options)
    summary = Summary(options.tenant)
    try:
        await _take(tail.backlog(), summary, options, say if options.lists else None)
        if not options.lists:
            say(json.dumps(as_json(summary)) if options.as_json else render(summary))
        if options.follow:
            await _take(tail.batches(), summary, options, say)
    finally:
        await tail.stop()


async def _tail(settings: MeshSettings, options: Options) -> Tail:
    count = await existing_partitions(settings, VERDICTS)
    tail = Tail(settings, Outsider.CONSUMER, VERDICTS, skips_gone=True)
    await tail.start_since(range(count), now_ms() - int(options.since_s * 1000))
    return tail


async def _take(batches: AsyncIterator[list[RawRecord]], summary: Summary, options: Options, say: Say | None) -> None:
    """Add the verdicts up; list those that are asked for, where they are to be listed."""
    async for batch in batches:
        for record in batch:
            verdict = _verdict(record)
            if verdict is None or not summary.add(verdict, record.timestamp_ms):
                continue
            if say is not None and options.shows(verdict):
                say(_line(verdict, record.timestamp_ms, options))


def _verdict(record: RawRecord) -> Verdict | None:
    try:
        verdict: Verdict = decode(VERDICTS, record).record
    except RecordError as error:
        log.warning("leaves out an unreadable verdict at %d/%d: %s", record.partition, record.offset, error)
        return None
    return verdict


def _line(verdict: Verdict, at_ms: int, options: Options) -> str:
    if not options.as_json:
        return render_verdict(verdict, at_ms)
    return json.dumps({"at_ms": at_ms, **msgspec.to_builtins(verdict)}, ensure_ascii=False)


def _print(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
