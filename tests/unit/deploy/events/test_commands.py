"""`python -m deploy.events`: what its commands print, and how they end."""

from functools import partial
from pathlib import Path

import msgspec
import pytest

from deploy.events import __main__ as commands
from deploy.events import contract
from deploy.events.contract import current_contract, keep, last_release
from deploy.events.diff import Change, Kind
from deploy.events.verdict import Verdict

BREAK = Change(Kind.READERS_OF_THE_LAST, "responses.events: completed.usage is not there", ("gateway", "billing"))
NEW = Change(Kind.COMPATIBLE, "responses.events: completed.cost is new")


def found(monkeypatch: pytest.MonkeyPatch, *changes: Change, faults: tuple[str, ...] = ()) -> None:
    monkeypatch.setattr(commands, "verdict", lambda but=None: Verdict("0.1.0", changes, faults))


def test_a_break_ends_with_1_and_names_whom_it_breaks(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found(monkeypatch, BREAK, NEW, faults=("a change breaks readers",))
    assert commands.main(["diff"]) == 1
    assert capsys.readouterr().out == (
        "since 0.1.0:\n\n"
        "breaks readers of the last release, who meet what this one writes:\n"
        "  responses.events: completed.usage is not there\n"
        "      breaks gateway, billing\n\n"
        "breaks nobody:\n"
        "  responses.events: completed.cost is new\n"
        "error: a change breaks readers\n"
    )


def test_what_breaks_nobody_ends_with_0(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    found(monkeypatch)
    assert commands.main(["diff"]) == 0
    assert capsys.readouterr().out == "nothing changed since 0.1.0\n"


def test_nothing_is_kept_of_what_breaks_somebody(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found(monkeypatch, BREAK, faults=("a change breaks readers",))
    monkeypatch.setattr(commands, "keep", lambda *_, **__: pytest.fail("it was kept"))
    assert commands.main(["freeze"]) == 1
    assert "gateway, billing" in capsys.readouterr().err


def test_the_first_release_has_none_before_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    in_folder(monkeypatch, tmp_path)
    assert commands.main(["freeze"]) == 0
    assert last_release(tmp_path) == current_contract()


def test_what_a_release_promised_is_not_written_over(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    in_folder(monkeypatch, tmp_path)
    found(monkeypatch)
    promised = msgspec.structs.replace(current_contract(), schema_version=0)
    keep(promised, tmp_path)
    assert commands.main(["freeze"]) == 1
    said = capsys.readouterr().err
    assert said.startswith("error: ") and said.count("\n") == 1 and "--again" in said
    assert last_release(tmp_path) == promised
    assert commands.main(["freeze", "--again"]) == 0
    assert last_release(tmp_path) == current_contract()


def test_what_is_written_again_is_held_to_the_release_before(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    in_folder(monkeypatch, tmp_path)
    keep(msgspec.structs.replace(current_contract(), release="0.0.9"), tmp_path)
    keep(current_contract(), tmp_path)
    held_to: list[str | None] = []

    def breaks(but: str | None = None) -> Verdict:
        held_to.append(last_release(tmp_path, but=but).release)
        return Verdict("0.0.9", (BREAK,), ("a change breaks readers",))

    monkeypatch.setattr(commands, "verdict", breaks)
    assert commands.main(["freeze", "--again"]) == 1
    assert held_to == ["0.0.9"] and "gateway, billing" in capsys.readouterr().err


def in_folder(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.setattr(commands, "kept", partial(contract.kept, folder))
    monkeypatch.setattr(commands, "keep", lambda kept, *, again: keep(kept, folder, again=again))


def test_what_goes_wrong_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def unreadable() -> Verdict:
        raise contract.ContractError("consumers.yaml: no such file")

    monkeypatch.setattr(commands, "verdict", unreadable)
    assert commands.main(["diff"]) == 1
    assert capsys.readouterr().err == "error: consumers.yaml: no such file\n"
