"""The folder that keeps unpacked weights (services.inference.engines.weight_cache): no way of failing is fatal."""

import errno
import logging
import multiprocessing
import os
import signal
from pathlib import Path

import pytest
from filelock import FileLock

from services.inference.engines.weight_cache import CacheEntry, cache_root, entries_of, entry_name

TIMEOUT_S = 20


@pytest.fixture
def entry(tmp_path: Path) -> CacheEntry:
    return CacheEntry(tmp_path / "new" / "root", "model-1", (OSError, ValueError))


def write(folder: Path) -> None:
    (folder / "a").write_text("1")
    (folder / "b").write_text("2")


def read(folder: Path) -> str:
    text = (folder / "a").read_text() + (folder / "b").read_text()
    if text != "12":
        raise ValueError(f"not what was written: {text}")
    return text


def visible(entry: CacheEntry) -> list[str]:
    return sorted(path.name for path in entry.root.iterdir() if not path.name.endswith(".lock"))


def test_what_was_stored_is_loaded(entry: CacheEntry) -> None:
    assert entry.load(read) is None
    entry.store(write)
    assert entry.load(read) == "12"
    assert visible(entry) == [entry.name]


@pytest.mark.parametrize("damage", [lambda f: (f / "b").unlink(), lambda f: (f / "b").write_text("")])
def test_a_damaged_entry_is_made_anew(entry: CacheEntry, caplog: pytest.LogCaptureFixture, damage) -> None:
    entry.store(write)
    damage(entry.folder)
    assert entry.load(read) is None
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert visible(entry) == []
    entry.store(write)
    assert entry.load(read) == "12"


def test_an_error_that_no_folder_causes_is_not_swallowed(entry: CacheEntry) -> None:
    def broken(_: Path) -> None:
        raise TypeError("a mistake in the code")

    with pytest.raises(TypeError):
        entry.store(broken)
    entry.store(write)
    with pytest.raises(TypeError):
        entry.load(broken)
    assert visible(entry) == [entry.name]


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), ValueError("not serializable")])
def test_what_cannot_be_written_leaves_one_line_and_no_trace(
    entry: CacheEntry, caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    def fill_the_disk(folder: Path) -> None:
        (folder / "a").write_text("1")
        raise error

    entry.store(fill_the_disk)
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert str(error) in caplog.text
    assert visible(entry) == []


def test_a_root_that_cannot_be_made_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").touch()
    entry = CacheEntry(tmp_path / "file" / "root", "model-1")
    assert entry.load(read) is None
    entry.store(write)
    assert "cannot be written" in caplog.text


def test_the_first_writer_stays(entry: CacheEntry) -> None:
    entry.store(write)
    entry.store(lambda folder: pytest.fail(f"wrote {folder} again"))
    assert entry.load(read) == "12"


def test_while_another_process_writes_nobody_waits_or_touches_it(entry: CacheEntry) -> None:
    entry.root.mkdir(parents=True)
    lock = FileLock(entry.root / f".{entry.name}.lock")
    partial = entry.root / f".{entry.name}.partial"
    with lock:
        partial.mkdir()
        entry.store(lambda folder: pytest.fail(f"wrote {folder} too"))
        assert partial.is_dir()
        assert entry.load(read) is None


def _write_and_hang(entry: CacheEntry, writing: "multiprocessing.synchronize.Event") -> None:
    def hang(folder: Path) -> None:
        (folder / "a").write_text("half")
        writing.set()
        signal.pause()

    entry.store(hang)


def test_a_killed_writer_leaves_no_half_entry(entry: CacheEntry) -> None:
    context = multiprocessing.get_context("spawn")
    writing = context.Event()
    writer = context.Process(target=_write_and_hang, args=(entry, writing))
    writer.start()
    assert writing.wait(TIMEOUT_S)
    assert entry.load(read) is None
    os.kill(writer.pid, signal.SIGKILL)
    writer.join(TIMEOUT_S)
    assert visible(entry) == [f".{entry.name}.partial"]
    assert entry.load(read) is None
    entry.store(write)
    assert entry.load(read) == "12"
    assert visible(entry) == [entry.name]


def _store_at_once(entry: CacheEntry, barrier: "multiprocessing.synchronize.Barrier") -> None:
    barrier.wait(TIMEOUT_S)
    entry.store(write)


def test_writers_at_once_leave_one_whole_entry(entry: CacheEntry) -> None:
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(3)
    writers = [context.Process(target=_store_at_once, args=(entry, barrier)) for _ in range(3)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(TIMEOUT_S)
    assert [writer.exitcode for writer in writers] == [0, 0, 0]
    assert entry.load(read) == "12"
    assert visible(entry) == [entry.name]


def test_the_setting_beats_the_users_cache_folder() -> None:
    assert cache_root("/elsewhere", {"XDG_CACHE_HOME": "/cache"}) == Path("/elsewhere")
    assert cache_root("", {"XDG_CACHE_HOME": "/cache"}) == Path("/cache/chatmesh/models")
    assert cache_root("", {"XDG_CACHE_HOME": "relative"}) == Path.home() / ".cache/chatmesh/models"
    assert cache_root("", {}) == Path.home() / ".cache/chatmesh/models"


def test_another_content_is_another_entry(tmp_path: Path) -> None:
    names = set()
    for content in (b"header weights", b"header WEIGHTS"):
        (tmp_path / "m.gguf").write_bytes(content)
        os.utime(tmp_path / "m.gguf", (0, 0))
        names.add(entry_name("m", tmp_path / "m.gguf", "bfloat16", "library-1"))
    names.add(entry_name("m", tmp_path / "m.gguf", "bfloat16", "library-2"))
    names.add(entry_name("m", tmp_path / "m.gguf", "float32", "library-1"))
    assert len(names) == 4


DIGESTS = ("a" * 16, "b" * 16, "c" * 16, "d" * 16)


def stored(root: Path, model_id: str, digest: str, used_at: float) -> CacheEntry:
    entry = CacheEntry(root, f"{model_id}-{digest}-bfloat16-library-1", (OSError, ValueError))
    entry.store(write)
    os.utime(entry.folder, (used_at, used_at))
    return entry


def test_what_was_not_used_for_longest_is_pruned_and_other_models_stay(tmp_path: Path) -> None:
    first, second, third, fourth = (stored(tmp_path, "m", digest, n) for n, digest in enumerate(DIGESTS))
    others = [stored(tmp_path, "m-instruct", DIGESTS[0], 0.0), stored(tmp_path, "n", DIGESTS[0], 0.0)]
    assert first.load(read) == "12", "reading is using"
    fourth.prune(entries_of("m", tmp_path)[2:])
    assert visible(first) == sorted(entry.name for entry in (first, fourth, *others))
    assert fourth.load(read) == "12"
    assert second.load(read) is None
    assert third.load(read) is None


def test_what_another_process_holds_is_not_pruned(tmp_path: Path) -> None:
    held, newest = stored(tmp_path, "m", DIGESTS[0], 0.0), stored(tmp_path, "m", DIGESTS[1], 1.0)
    with FileLock(tmp_path / f".{held.name}.lock"):
        newest.prune([held.folder])
    assert held.load(read) == "12"


def test_what_cannot_be_pruned_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, newest = stored(tmp_path, "m", DIGESTS[0], 0.0), stored(tmp_path, "m", DIGESTS[1], 1.0)

    def refuse(self: Path, target: Path) -> Path:
        raise PermissionError(errno.EACCES, "not yours")

    monkeypatch.setattr(Path, "rename", refuse)
    newest.prune([old.folder])
    assert "cannot be removed" in caplog.text
