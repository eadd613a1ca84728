"""The forward pass of a small BERT (all-MiniLM-L6-v2): word pieces in, pooled hidden states out.

Devlin et al. 2018 (arXiv:1810.04805), with learned positions, post-layer-norm and the exact GELU; dropout is for
training. Written out here because it is short, and because three things matter that a library does not promise:

* **A window's result does not depend on its neighbours, to the bit.** Windows are padded to the next multiple of
  `GRAIN`, a matter of the window alone, and passes have one of a few fixed numbers of rows. Whether those agree is
  not assumed but tried at start (`settle`): a number of rows that changes a bit is not used on this machine.
* **It is quick on one core.** Plain products take half the time of torch's fused attention on CPUs for so short
  sequences (0.26 ms for 0.49 per layer, 128 positions in bfloat16); fixed shapes keep oneDNN from building a new kernel
  (1 to 3 ms each) for every length that comes along. Only the layers up to the highest that is asked for are computed.
* **bfloat16 only where the processor multiplies it** (AVX-512 BF16, AMX, CUDA): three times as fast as float32 there,
  slower elsewhere. Sums, norms and the mean run in float32. Dynamic int8 would take a third less than bfloat16 and a
  fifth of float32, but its scale is that of the batch, and a decision must not depend on what else is judged.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import gelu, layer_norm, linear

from services.moderation.backends.encoder.windows import SIZE

HEADS = 12
GRAIN = 16
"""Windows are padded to a multiple of so many positions."""
LONGEST = SIZE + 2
CPU_ROWS = (4, 1)
"""Windows that one pass takes, on a CPU: more gain nothing without AMX, and each number costs a start-up check."""
GPU_ROWS = (16,)
"""On an accelerator kernels are chosen by the number of rows, so that there is one; empty rows fill it up."""
_EPSILON = 1e-12


class Pass(NamedTuple):
    """One forward pass: the windows at `places`, padded to `length` positions, in `rows` rows."""

    places: tuple[int, ...]
    length: int
    rows: int


def passes(lengths: Sequence[int], rows: Sequence[int]) -> list[Pass]:
    """How windows of so many positions share passes, whose rows are one of `rows` (falling). Pure.

    The last pass of a length may have empty rows, if the smallest number of `rows` is not 1.
    """
    alike: dict[int, list[int]] = {}
    for place, length in enumerate(lengths):
        alike.setdefault(math.ceil(length / GRAIN) * GRAIN, []).append(place)
    found = []
    for length, places in sorted(alike.items()):
        done = 0
        while done < len(places):
            size = next((size for size in rows if size <= len(places) - done), rows[-1])
            found.append(Pass(tuple(places[done : done + size]), length, size))
            done += size
    return found


class _Block(NamedTuple):
    """One layer. Each pair is a weight [out, in] and its bias [out], or a norm's gain and bias."""

    query_key_value: tuple[torch.Tensor, torch.Tensor]
    attended: tuple[torch.Tensor, torch.Tensor]
    attended_norm: tuple[torch.Tensor, torch.Tensor]
    widened: tuple[torch.Tensor, torch.Tensor]
    narrowed: tuple[torch.Tensor, torch.Tensor]
    norm: tuple[torch.Tensor, torch.Tensor]


class Encoder:
    """`weights` by Hugging Face's names; `layers`: which hidden states are pooled, 0 the embeddings, 1… the layers.

    Not for several threads at once.
    """

    def __init__(
        self,
        weights: Mapping[str, torch.Tensor],
        layers: Sequence[int],
        *,
        device: str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.dtype = dtype or fastest_dtype(self.device)
        self.layers = tuple(layers)
        self.rows: tuple[int, ...] = GPU_ROWS if self.device.type == "cuda" else CPU_ROWS
        self._words = self._placed(weights["embeddings.word_embeddings.weight"], self.dtype)
        places = weights["embeddings.position_embeddings.weight"][:LONGEST]
        kind = weights["embeddings.token_type_embeddings.weight"][0]
        self._places = self._placed(places + kind, torch.float32)
        self._norm = self._pair(weights, "embeddings.LayerNorm", torch.float32)
        self._blocks = [self._block(weights, f"encoder.layer.{number}") for number in range(max(self.layers))]

    def _placed(self, tensor: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        # A copy even where nothing changes: else the whole file of weights would stay mapped.
        return tensor.to(self.device, dtype, copy=True).contiguous()

    def _pair(
        self, weights: Mapping[str, torch.Tensor], name: str, dtype: torch.dtype
    ) -> tuple[torch.Tensor, torch.Tensor]:
        return self._placed(weights[f"{name}.weight"], dtype), self._placed(weights[f"{name}.bias"], dtype)

    def _block(self, weights: Mapping[str, torch.Tensor], name: str) -> _Block:
        parts = [f"{name}.attention.self.{part}" for part in ("query", "key", "value")]
        joined = [torch.cat([weights[f"{part}.{kind}"] for part in parts]) for kind in ("weight", "bias")]
        return _Block(
            (self._placed(joined[0], self.dtype), self._placed(joined[1], self.dtype)),
            self._pair(weights, f"{name}.attention.output.dense", self.dtype),
            self._pair(weights, f"{name}.attention.output.LayerNorm", self.dtype),
            self._pair(weights, f"{name}.intermediate.dense", self.dtype),
            self._pair(weights, f"{name}.output.dense", self.dtype),
            self._pair(weights, f"{name}.output.LayerNorm", self.dtype),
        )

    def settle(self) -> tuple[int, ...]:
        """Run every shape once, so that no later call waits for its kernels, and keep only those numbers of rows with
        which a window's result is the same, to the bit, as with the fewest. Returns what was dropped."""
        fewest = self.rows[-1]
        trials = [self._trial(length) for length in range(GRAIN, LONGEST + 1, GRAIN)]
        alone = [self._run([trial], fewest) for trial in trials]
        agreeing = [
            rows
            for rows in self.rows
            if all(_same_bits(self._run([trial] * rows, rows), one) for trial, one in zip(trials, alone, strict=True))
        ]
        dropped = tuple(rows for rows in self.rows if rows not in agreeing)
        self.rows = tuple(agreeing) or (fewest,)
        return dropped

    def _trial(self, length: int) -> list[int]:
        """A window of pieces from all over the vocabulary."""
        vocabulary = self._words.shape[0]
        return [(7919 * (place + length)) % vocabulary for place in range(length)]

    def pooled(self, windows: Sequence[Sequence[int]]) -> NDArray[np.float32]:
        """The mean of each window's hidden states over its positions, marks included: [windows, layers, 384].

        `windows`: ids with their marks, at most LONGEST each.
        """
        width = self._words.shape[1]
        found = np.empty((len(windows), len(self.layers), width), np.float32)
        for each in passes([len(window) for window in windows], self.rows):
            found[list(each.places)] = self._run([windows[place] for place in each.places], each.rows, each.length)
        return found

    def _run(self, windows: Sequence[Sequence[int]], rows: int, length: int | None = None) -> NDArray[np.float32]:
        """One pass; the results of empty rows are left out."""
        length = length or len(windows[0])
        ids = torch.zeros(rows, length, dtype=torch.long)
        counts = torch.ones(rows, dtype=torch.long)
        for row, window in enumerate(windows):
            ids[row, : len(window)] = torch.as_tensor(window)
            counts[row] = len(window)
        with torch.inference_mode():
            states = self._states(ids.to(self.device), counts.to(self.device))
        return states[: len(windows)].cpu().numpy()

    def _states(self, ids: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
        """[rows, positions] of ids, and how many of each row count → [rows, layers, 384], float32."""
        rows, length = ids.shape
        said = torch.arange(length, device=self.device) < counts[:, None]
        unsaid = torch.zeros(rows, 1, length, dtype=self.dtype, device=self.device)
        unsaid.masked_fill_(~said[:, None], -math.inf)
        mask = unsaid.repeat_interleave(HEADS, 0)
        embedded = self._words[ids].float() + self._places[:length]
        state = layer_norm(embedded, embedded.shape[-1:], *self._norm, _EPSILON).to(self.dtype)
        states = [state, *self._walk(state, mask)]
        weight = said[:, :, None].float()
        means = [(states[layer].float() * weight).sum(1) / counts[:, None] for layer in self.layers]
        return torch.stack(means, 1)

    def _walk(self, state: torch.Tensor, mask: torch.Tensor) -> Iterable[torch.Tensor]:
        """The hidden state behind each layer, [rows, positions, 384]."""
        width = state.shape[-1:]
        for block in self._blocks:
            attended = linear(_attend(linear(state, *block.query_key_value), mask), *block.attended)
            state = layer_norm(state + attended, width, *block.attended_norm, _EPSILON)
            wide = gelu(linear(state, *block.widened))
            state = layer_norm(state + linear(wide, *block.narrowed), width, *block.norm, _EPSILON)
            yield state


def _attend(query_key_value: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """[rows, positions, 3 * 384] → [rows, positions, 384]; `mask`, [rows * heads, 1, positions], is added to the
    scores."""
    rows, length, width = query_key_value.shape
    size = width // 3 // HEADS
    parts = query_key_value.view(rows, length, 3, HEADS, size).permute(2, 0, 3, 1, 4)
    query, key, value = parts.reshape(3, rows * HEADS, length, size)
    scores = torch.baddbmm(mask, query, key.transpose(1, 2), alpha=1 / math.sqrt(size))
    mixed = torch.bmm(torch.softmax(scores, -1), value)
    return mixed.view(rows, HEADS, length, size).transpose(1, 2).reshape(rows, length, HEADS * size)


def fastest_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 where the processor multiplies it itself, else float32."""
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    known: Mapping[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()  # torch 2.8 does not tell yet
    return torch.bfloat16 if known.get("avx512_bf16") or known.get("amx_bf16") else torch.float32


def _same_bits(several: NDArray[np.float32], one: NDArray[np.float32]) -> bool:
    return all(np.array_equal(row, one[0]) for row in several)
