"""`make run` takes no arguments; whoever tries some is told so and starts nothing."""

import pytest

from deploy.local.__main__ import main


def test_help_lists_the_settings(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    assert "CHATMESH_DATA_DIR" in capsys.readouterr().out


def test_what_is_no_argument_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--port", "8090"])
    assert ended.value.code == 2
    assert "unrecognized arguments: --port 8090" in capsys.readouterr().err
