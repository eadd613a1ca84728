"""`python -m services.moderation.evaluation FILE`: how good a moderation policy is on labelled texts.

FILE is JSON lines or CSV, gzipped or not, with the keys `text` (or `prompt`), labels by OpenAI's category names (or S,
H, V, HR, SH, S3, H2, V2, or `any`): 1, 0, or nothing where it is unknown, and, where known, `spans`, its offences.

With labels: area under precision over recall, true-positive rates, what the policy's thresholds come to, calibration
and a reliability curve. With spans: what of a streamed text would have left before the cut. The texts are judged by the
policy's own patterns and backends, by the code that judges prompts and streams.
"""

import argparse
import asyncio
import json
import random
import sys
from collections.abc import Sequence
from pathlib import Path

from services.moderation.backends.building import build_backend
from services.moderation.evaluation.curve import draw_reliability
from services.moderation.evaluation.dataset import Sample, read_samples
from services.moderation.evaluation.overshoot import Overshoot, overshoot, stream_texts
from services.moderation.evaluation.quality import Quality, qualities
from services.moderation.evaluation.report import figures, overshoot_table, quality_table, threshold_table
from services.moderation.evaluation.scoring import Judges, Progress, judges_of, score_texts
from services.moderation.judging import result_of
from services.moderation.policy import DEFAULT_POLICY, Policy, load_policy
from shared.errors import ChatmeshError
from shared.records import ModerationWish

BLOCK = ModerationWish(model="", output="block")


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status 1, and what is wrong on stderr, where there is nothing to evaluate."""
    options = _options(arguments)
    try:
        policy = load_policy(options.policy)
        samples = _drawn(read_samples(options.file), options.limit, options.seed)
        asyncio.run(_evaluate(policy, samples, options))
    except ChatmeshError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m services.moderation.evaluation",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("file", type=Path, help="labelled texts")
    parser.add_argument("--policy", type=Path, default=DEFAULT_POLICY, help="policy file (default: the built-in one)")
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("build/moderation-evaluation"),
        help="folder of reliability.png, figures.json (default: %(default)s)",
    )
    parser.add_argument("--limit", type=_positive, metavar="N", help="only N texts, drawn at random")
    parser.add_argument(
        "--bootstrap",
        type=_positive,
        default=1000,
        metavar="N",
        help="samples behind the intervals (default: %(default)s)",
    )
    parser.add_argument("--seed", type=int, default=0, help="of what is drawn (default: %(default)s)")
    return parser.parse_args(arguments)


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number from 1 on")
    return int(text)


def _drawn(samples: Sequence[Sample], limit: int | None, seed: int) -> Sequence[Sample]:
    if limit is None or limit >= len(samples):
        return samples
    return random.Random(seed).sample(samples, limit)


async def _evaluate(policy: Policy, samples: Sequence[Sample], options: argparse.Namespace) -> None:
    found: list[Quality] = []
    streamed: dict[str, Overshoot] = {}
    print(f"policy {policy.name}, {len(samples)} texts of {options.file}\n", flush=True)
    async with judges_of(policy, build_backend) as judges:
        if any(sample.labels for sample in samples):
            judge = judges(None)
            scored = await score_texts(judge, [sample.text for sample in samples], _progress("scored"))
            found = qualities(policy, samples, scored, options.bootstrap, options.seed)
            sources = result_of(judge, {}, (), "input").sources
            print(f"{quality_table(found, sources)}\n\n{threshold_table(found)}\n")
        if any(sample.spans is not None for sample in samples):
            streamed = await _streamed(judges, [sample for sample in samples if sample.spans is not None])
            print(f"{overshoot_table(streamed)}\n")
    _write(options.out, found, streamed)


async def _streamed(judges: Judges, samples: Sequence[Sample]) -> dict[str, Overshoot]:
    """As the policy says, and as for a request that asks to block whatever would be flagged."""
    wishes = {"by the policy": None, "if a request asks to block": BLOCK}
    return {
        name: overshoot(await stream_texts(judges(wish), samples, _progress(f"streamed {name}")))
        for name, wish in wishes.items()
    }


def _write(folder: Path, found: Sequence[Quality], streamed: dict[str, Overshoot]) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "figures.json").write_text(json.dumps(figures(found, streamed), indent=1, allow_nan=False))
        written = [folder / "figures.json"]
        if found:
            draw_reliability(found, folder / "reliability.png")
            written.append(folder / "reliability.png")
    except OSError as error:
        raise ChatmeshError(f"cannot write the results: {error}") from error
    print("written: " + ", ".join(map(str, written)))


def _progress(what: str) -> Progress:
    """A line on stderr every tenth of the way."""
    told = 0

    def tell(done: int, whole: int) -> None:
        nonlocal told
        if done * 10 // whole > told or done == whole:
            told = done * 10 // whole
            print(f"{what}: {done} of {whole}", file=sys.stderr, flush=True)

    return tell


if __name__ == "__main__":
    sys.exit(main())
