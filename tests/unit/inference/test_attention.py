"""Each sequence of a step attends to itself and to nothing after it, whatever lies beside it."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from services.inference.engines.attention import varlen_attention

HEADS, KEY_HEADS, SIZE = 6, 2, 8
# (queries, keys) of a sequence: one token said, a whole prompt, the rest of a prompt whose beginning was read before
sequences = st.lists(
    st.tuples(st.integers(1, 5), st.integers(0, 7)).map(lambda lengths: (lengths[0], sum(lengths))),
    min_size=1,
    max_size=5,
)


class FakeCache:
    """Gives back all keys and values, as the paged cache does, with their bounds in the keyword arguments."""

    def __init__(self, key: torch.Tensor, value: torch.Tensor, bounds: torch.Tensor) -> None:
        self._whole = key, value
        self._bounds = bounds

    def update(
        self, key: torch.Tensor, value: torch.Tensor, layer: int, kwargs: dict[str, Any]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        kwargs["cu_seq_lens_k"] = self._bounds
        return self._whole


def bounds(lengths: list[int]) -> torch.Tensor:
    return torch.tensor([0, *lengths]).cumsum(0)


def attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, lengths: list[tuple[int, int]]) -> torch.Tensor:
    queries, keys = ([length[side] for length in lengths] for side in (0, 1))
    cache = FakeCache(key, value, bounds(keys))
    module = SimpleNamespace(layer_idx=0)
    attended, _ = varlen_attention(
        module, query, key, value, None, cache=cache, cu_seq_lens_q=bounds(queries), cu_seq_lens_k={}, scaling=0.3
    )  # type: ignore[arg-type]
    return attended


def by_definition(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """softmax(q·k·scale)·v of one sequence, query by query; [queries, heads, size]."""
    queries, keys = query.shape[2], key.shape[2]
    rows = []
    for n in range(queries):
        seen = keys - queries + n + 1
        heads = []
        for head in range(HEADS):
            group = head // (HEADS // KEY_HEADS)
            weights = (key[0, group, :seen] @ query[0, head, n] * 0.3).softmax(-1)
            heads.append(weights @ value[0, group, :seen])
        rows.append(torch.stack(heads))
    return torch.stack(rows)


@given(lengths=sequences)
@settings(max_examples=60)
def test_it_is_attention_by_definition(lengths: list[tuple[int, int]]) -> None:
    torch.manual_seed(0)
    queries, keys = sum(length[0] for length in lengths), sum(length[1] for length in lengths)
    query = torch.randn(1, HEADS, queries, SIZE)
    key, value = torch.randn(2, 1, KEY_HEADS, keys, SIZE)

    attended = attend(query, key, value, lengths)

    parts = zip(
        query.split([length[0] for length in lengths], 2),
        key.split([length[1] for length in lengths], 2),
        value.split([length[1] for length in lengths], 2),
        strict=True,
    )
    expected = torch.cat([by_definition(*part) for part in parts])
    assert attended.shape == (1, queries, HEADS, SIZE)
    torch.testing.assert_close(attended[0], expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_neighbours_change_not_a_bit(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    query = torch.randn(1, HEADS, 4, SIZE).to(dtype)
    key, value = torch.randn(2, 1, KEY_HEADS, 24, SIZE).to(dtype)
    lengths = [(1, 9), (2, 11), (1, 4)]
    together = attend(query, key, value, lengths)
    alone = attend(query[:, :, 1:3], key[:, :, 9:20], value[:, :, 9:20], [(2, 11)])
    assert torch.equal(together[:, 1:3], alone)


def test_outside_a_batch_it_is_plain_sdpa() -> None:
    query = torch.randn(1, HEADS, 3, SIZE)
    key, value = torch.randn(2, 1, KEY_HEADS, 3, SIZE)
    module = SimpleNamespace(num_key_value_groups=HEADS // KEY_HEADS, is_causal=True)
    attended, _ = varlen_attention(module, query, key, value, None, scaling=0.3)  # type: ignore[arg-type]
    torch.testing.assert_close(attended[0], by_definition(query, key, value))
