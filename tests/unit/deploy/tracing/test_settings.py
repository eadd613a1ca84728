"""Where `make run` exports to."""

from pathlib import Path

import pytest

from deploy.local.holding import HeldError, held, holder_of
from deploy.tracing.settings import export_environment, running_ui, ui_lock

UI = "http://127.0.0.1:6006"


def test_it_exports_to_the_trace_ui_of_its_folder(tmp_path: Path) -> None:
    with held(ui_lock(tmp_path), {"address": UI}):
        assert export_environment({}, tmp_path) == {"OTEL_EXPORTER_OTLP_ENDPOINT": UI}
    assert export_environment({}, tmp_path) == {}, "the file stays, its holder does not"


def test_without_a_trace_ui_it_exports_nothing(tmp_path: Path) -> None:
    assert running_ui(tmp_path) is None
    assert export_environment({}, tmp_path) == {}


@pytest.mark.parametrize(
    "name", ["OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_SDK_DISABLED"]
)
def test_what_the_user_says_about_traces_stands(tmp_path: Path, name: str) -> None:
    with held(ui_lock(tmp_path), {"address": UI}):
        assert export_environment({name: "something"}, tmp_path) == {}
        assert export_environment({name: ""}, tmp_path) != {}


def test_a_file_has_one_holder_who_tells_others_what_it_likes(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "x.lock"
    with held(path, {"step": 1}) as tell:
        tell({"step": 2})
        told = holder_of(path)
        assert told is not None
        assert told["step"] == 2
        with pytest.raises(HeldError) as refused, held(path, {}):
            pass
        assert refused.value.holder == told
    assert holder_of(path) is None
