"""What `make trace-check` says where it cannot even ask."""

import pytest

from deploy.tracing.check import main


@pytest.mark.parametrize("given", [["--url", "http://127.0.0.1:abc"], ["--url", "http://u", "--base-url", "u:1"]])
def test_what_is_no_address_is_one_line(given: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*given, "--response", "resp_1"]) == 1
    assert capsys.readouterr().err == f"error: {given[-1]!r} is no address: write http://host:port\n"


def test_a_key_that_no_header_can_hold_is_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "schlüssel")
    assert main(["--url", "http://127.0.0.1:1", "--base-url", "http://127.0.0.1:1"]) == 1
    said = capsys.readouterr().err
    assert said.startswith("error: OPENAI_API_KEY") and said.count("\n") == 1


@pytest.mark.parametrize("given", ["nan", "inf", "0", "-1", "soon"])
def test_no_one_waits_for_what_is_no_time(given: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--timeout", given])
    assert f"{given!r} is no number of seconds above 0" in capsys.readouterr().err
