"""`python -m services.moderation.policy check`: what a policy does, or all that is wrong in it."""

import re
from pathlib import Path

import pytest

from services.moderation.policy import load_policy
from services.moderation.policy.__main__ import main

WHOLE = """\
version: whole-1
categories:
  hate: {input: flag, output: cut, thresholds: {flag: 0.3, cut: 0.8}, patterns: ['a b', 'c']}
  secrets: {output: mask, mask: '[gone]', patterns: ['key=x+']}
backends:
  local: {kind: text-classification, model: org/toxic, labels: {toxic: hate}, timeout_s: 1}
  remote: {kind: upstream, base_url: 'https://host/v1', on_failure: open}
  keys: {kind: secrets, category: secrets}
combine: any
tenants:
  acme: {categories: {hate: {output: flag, thresholds: {cut: 0.7}}}}
"""


def rows(output: str) -> list[list[str]]:
    return [[cell for cell in line.split("  ") if cell] for line in output.splitlines()]


def test_a_policy_is_shown_as_tables(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "whole.yaml"
    file.write_text(WHOLE)
    assert main(["check", str(file)]) == 0
    shown = [[cell.strip() for cell in row] for row in rows(capsys.readouterr().out)]
    assert shown[0] == [f"policy {load_policy(file).name}"]
    assert "newest 96 held back; backends judge every 64" in shown[1][0]
    assert "what a backend itself calls a violation is flagged" in shown[1][0]
    assert ["hate", "flag", "cut", "0.3", "0.8", "0.8", "2", "local, remote"] in shown
    assert ["secrets", "off", 'mask as "[gone]"', "0.5", "0.9", "0.9", "1", "keys"] in shown
    assert ["local", "text-classification", "1", "closed", "org/toxic", "hate"] in shown
    assert ["remote", "upstream", "2", "open", "https://host/v1", "(its own, of OpenAI's)"] in shown
    tenant = shown.index(["tenant acme, otherwise:"])
    assert shown[tenant + 2] == ["hate", "flag", "flag", "0.3", "0.7", "0.7", "2", "local, remote"]
    assert any(row and row[0].startswith("warning: ") and "'key=x+'" in row[0] for row in shown)


def test_the_default_policy_is_checked_where_no_file_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check"]) == 0
    assert capsys.readouterr().out.startswith(f"policy {load_policy().name}\n")


def test_faults_go_to_stderr_with_status_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "faulty.yaml"
    file.write_text(WHOLE.replace("output: cut", "output: shout").replace("kind: secrets", "kind: secret"))
    assert main(["check", str(file)]) == 1
    told = capsys.readouterr()
    assert told.out == ""
    assert f"{file}:3: categories.hate.output: Input should be" in told.err
    assert f"{file}:8: backends.keys: " in told.err


SECRETS = (
    "version: v\ncategories: {secrets: {output: mask, mask: x}}\nbackends: {keys: {kind: secrets, category: secrets}}\n"
)
KEYED = (
    "version: v\ncategories: {}\nbackends: {far: {kind: upstream, base_url: 'http://h/v1', api_key_env: NO_SUCH_KEY}}\n"
)


def test_models_are_loaded_where_that_is_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "secrets.yaml"
    file.write_text(SECRETS)
    assert main(["check", str(file), "--load"]) == 0
    *_, last = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"keys: revision \S+, started in \d+\.\d s, judges secrets", last)


def test_what_only_loading_shows_is_a_fault_then(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    file = tmp_path / "keyed.yaml"
    file.write_text(KEYED)
    assert main(["check", str(file)]) == 0
    assert main(["check", str(file), "--load"]) == 1
    assert "NO_SUCH_KEY" in capsys.readouterr().err


@pytest.mark.parametrize(("arguments", "status"), [([], 2), (["chek"], 2), (["--help"], 0), (["check", "--help"], 0)])
def test_usage(arguments: list[str], status: int, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == status
    assert "usage: python -m services.moderation.policy" in "".join(capsys.readouterr())
