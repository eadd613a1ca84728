"""`make mongo`: what cannot be meant is said in one line, before anything is built."""

import pytest

from deploy.stores import __main__ as command
from deploy.stores.ferretdb import FerretServer


@pytest.mark.parametrize(
    ("arguments", "said"),
    [(["--help"], "usage: "), (["ferretdb", "abc"], "'abc' is no port"), (["mysql"], "invalid choice: 'mysql'")],
)
def test_wrong_arguments_are_told(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        command.main(arguments)
    told = capsys.readouterr()
    assert said in told.out + told.err


def test_ctrl_c_before_it_is_ready_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(_server: FerretServer) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(FerretServer, "start", interrupted)
    assert command.main([]) == 130
