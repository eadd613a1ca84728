"""npm's packages are installed once per lock, and what goes wrong is said."""

from pathlib import Path

import pytest

from deploy import npm

NPM = """#!/bin/sh
[ "$1" = ci ] || exit 9
mkdir node_modules && date +%N > node_modules/installed
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "package.json").write_text("{}")
    (tmp_path / "package-lock.json").write_text('{"lockfileVersion": 3}')
    return tmp_path


def fake_npm(monkeypatch: pytest.MonkeyPatch, folder: Path, script: str) -> None:
    program = folder / "bin" / "npm"
    program.parent.mkdir()
    program.write_text(script)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")


def test_what_is_installed_stays_until_the_lock_changes(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    fake_npm(monkeypatch, folder, NPM.replace("mkdir", "rm -rf node_modules && mkdir"))
    told: list[str] = []
    stamps = []
    for lock in ("{}", "{}", '{"changed": 1}'):
        (folder / "package-lock.json").write_text(lock)
        modules = npm.installed(folder, lambda: told.append("installing"))
        stamps.append((modules / "installed").read_text())
    assert stamps[0] == stamps[1] != stamps[2]
    assert told == ["installing", "installing"]


def test_an_installation_that_failed_is_tried_again(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.setattr("deploy.programs._PAUSES_S", ())
    fake_npm(monkeypatch, folder, "#!/bin/sh\nmkdir -p node_modules; echo no such package >&2; exit 3\n")
    for _ in range(2):
        with pytest.raises(npm.NpmError, match="ended with 3: no such package"):
            npm.installed(folder)


def test_without_npm_it_says_what_is_missing(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.setenv("PATH", str(folder))
    assert npm.trouble() == "npm is not on PATH"
    with pytest.raises(npm.NpmError, match="npm is not on PATH"):
        npm.installed(folder)
