"""`python -m services.moderation.training --data FOLDER --out FILE`: train the default classifier's head.

Prints how good it is on texts that it did not see, beside a plain blend, and writes the head: minutes on one core.
"""

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from services.moderation.backends.encoder.features import LAYERS, Floats
from services.moderation.backends.encoder.head import DEFAULT, OUTPUTS, calibrated, load_head
from services.moderation.normaliser import normalise
from services.moderation.training.blend import blend_scores
from services.moderation.training.calibration import calibrate, thresholds
from services.moderation.training.data import Material, labels_of, read_material
from services.moderation.training.fitting import Arrays, fit
from services.moderation.training.quality import paired_difference, table
from services.moderation.training.reading import Cutter, Pooler, Say, highest, read_windows, whole_texts
from services.moderation.training.rehearsal import Run, Texts, rehearse
from shared.errors import SettingsError


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit status."""
    options = _options(arguments)
    started = time.monotonic()

    def say(line: str) -> None:
        print(f"[{time.monotonic() - started:5.0f} s] {line}", flush=True)

    try:
        material = read_material(options.data)
        if not options.out.parent.is_dir():
            raise SettingsError(f"{options.out.parent} is no folder: the head is to be written into it")
        texts = read_texts(material, *_encoder(), say)
        runs = rehearse(texts, range(options.seeds), say)
        for line in report(texts, runs, blend=options.blend):
            print(line)
        arrays = train(texts, runs)
        write(options.out, arrays)
        head = load_head(options.out)
    except SettingsError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    size = options.out.stat().st_size
    say(f"wrote {options.out}: {size / 1e6:.1f} MB, {len(arrays['english'])} support texts, revision {head.revision}")
    return 0


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m services.moderation.training", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of the training data")
    parser.add_argument(
        "--out", type=Path, default=DEFAULT, help="where the head goes (default: the built-in one's place)"
    )
    parser.add_argument("--seeds", type=int, default=3, help="cross-validations, each with folds of its own")
    parser.add_argument(
        "--blend", action=argparse.BooleanOptionalAction, default=True, help="compare with a plain blend"
    )
    return parser.parse_args(arguments)


def _encoder() -> tuple[Cutter, Pooler]:
    """In float32 wherever it runs, so that machines with and without bfloat16 train alike."""
    import torch

    from services.moderation.backends.encoder.encoder import Encoder
    from services.moderation.backends.encoder.weights import encoder_files, load_weights
    from services.moderation.backends.encoder.windows import WordPieces

    files = encoder_files()
    return WordPieces(files.tokenizer), Encoder(load_weights(files.weights), LAYERS, dtype=torch.float32)


def read_texts(material: Material, cutter: Cutter, pooler: Pooler, say: Say) -> Texts:
    """Everything that a head is trained on, encoded."""
    examples = [*material.labelled, *material.further]
    measured = len(material.labelled)
    say(f"read {measured} labelled texts and {len(material.further)} further ones")
    texts = [normalise(example.text).text for example in examples]
    windows = read_windows(texts, cutter, pooler, say)
    weights = np.array([example.weight for example in examples], np.float32)
    return Texts(whole_texts(windows, texts), windows.of(np.arange(measured)), labels_of(examples), weights, measured)


def report(texts: Texts, runs: Sequence[Run], *, blend: bool) -> list[str]:
    """Quality of the head on unseen texts, and of the blend on the same folds."""
    scores = [unseen_probabilities(texts, run, runs) for run in runs]
    lines = [f"head, {len(runs)} x 5-fold cross-validation:", *table(OUTPUTS, scores, texts.truth)]
    limits = thresholds(np.mean(scores, 0), texts.truth)
    lines += ["probabilities that 5 % and 0.5 % of harmless texts reach (flag, cut):"]
    lines += [f"{name:18}{limit.flag:8.3f}{limit.cut:8.3f}" for name, limit in zip(OUTPUTS, limits, strict=True)]
    return lines + (_beside_blend(texts, runs, scores) if blend else [])


def _beside_blend(texts: Texts, runs: Sequence[Run], scores: Sequence[Floats]) -> list[str]:
    embeddings = texts.whole.pooled[: texts.measured, -1]
    embeddings = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    known = texts.whole.texts[: texts.measured]
    theirs = [blend_scores(known, embeddings, texts.truth, run.folds) for run in runs]
    lines = ["plain blend, same folds:", *table(OUTPUTS, theirs, texts.truth)]
    lines.append("AUPRC of the head less that of the blend, paired bootstrap over texts (90 % interval):")
    for output, name in enumerate(OUTPUTS):
        columns = [[run[:, output] for run in some] for some in (scores, theirs)]
        mean, low, high = paired_difference(columns[0], columns[1], texts.truth[:, output])
        lines.append(f"{name:18}{mean:+8.3f}   [{low:+.3f}, {high:+.3f}]")
    return lines


def unseen_probabilities(texts: Texts, run: Run, runs: Sequence[Run]) -> Floats:
    """[labelled texts, outputs]: what heads that did not see a text say of it, at its highest window."""
    windows = calibrated(run.windows, calibration_of(texts, runs))
    return highest(windows, texts.windows.owner, texts.measured)


def calibration_of(texts: Texts, runs: Sequence[Run]) -> Floats:
    """From all runs together."""
    owner = np.concatenate([texts.windows.owner + number * texts.measured for number in range(len(runs))])
    margins, windows = (
        np.concatenate(some) for some in zip(*((run.margins, run.windows) for run in runs), strict=True)
    )
    return calibrate(margins, windows, owner, np.concatenate([texts.truth] * len(runs)))


def train(texts: Texts, runs: Sequence[Run]) -> Arrays:
    """The head of all texts, with the calibration that heads of most of them turned out to need."""
    return {**fit(texts.whole, texts.labels, texts.weights), "calibration": calibration_of(texts, runs)}


def write(path: Path, arrays: Arrays) -> None:
    """Raises SettingsError."""
    try:
        with path.open("wb") as file:
            save: Callable[..., None] = np.savez_compressed  # its types take every name for that of an option
            save(file, **{name: arrays[name] for name in sorted(arrays)})
    except OSError as error:
        raise SettingsError(f"cannot write {path}: {error}") from error


if __name__ == "__main__":
    sys.exit(main())
