"""Windows that were judged before."""

from services.moderation.backends.encoder.memory import Memory


def test_a_window_is_known_by_its_pieces_and_its_text() -> None:
    memory = Memory(10)
    memory.put((101, 7, 102), "ing", (0.5, 0.1))
    assert memory.get((101, 7, 102), "ing") == (0.5, 0.1)
    assert memory.get((101, 8, 102), "ing") is None
    assert memory.get((101, 7, 102), "ING") is None


def test_what_was_not_asked_for_the_longest_is_forgotten() -> None:
    memory = Memory(2)
    for name in ("a", "b"):
        memory.put((1,), name, (1.0,))
    assert memory.get((1,), "a") is not None
    memory.put((1,), "c", (1.0,))
    assert [memory.get((1,), name) is not None for name in "abc"] == [True, False, True]


def test_it_keeps_no_text() -> None:
    memory = Memory(2)
    memory.put((1,), "a secret", (1.0,))
    assert "secret" not in repr(vars(memory))
