"""What a log line holds, and what no log line may hold."""

import json
import logging
import os
import subprocess
import sys
from typing import Any

import pytest
from aiokafka.errors import RequestTimedOutError
from opentelemetry.sdk.trace import TracerProvider

from shared.errors import RecordError
from shared.telemetry.logs import OUTSPOKEN, JsonFormatter, about, cause_of, named_cause_of

SECRET = "what a user wrote"
RESPONSE = "resp_0192f3a1b2c37000800000000000abcd"
tracer = TracerProvider().get_tracer("test")


def line(message: str, *args: object, **options: Any) -> dict[str, str]:
    """What the JSON formatter makes of one call of a logger."""
    written: list[str] = []

    class Into(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            written.append(self.format(record))

    logger, handler = logging.Logger("services.some.module"), Into()
    handler.setFormatter(JsonFormatter("gateway", "gateway-1"))
    logger.addHandler(handler)
    logger.error(message, *args, **options)
    assert "\n" not in written[0]
    entry: dict[str, str] = json.loads(written[0])
    return entry


def raised() -> Exception:
    """An error of ours, caused by a foreign one that quotes a text."""
    try:
        try:
            raise KeyError(SECRET)
        except KeyError as error:
            raise RecordError("no such role") from error
    except RecordError as error:
        return error


def test_a_line_says_who_speaks_and_what() -> None:
    entry = line("took %d s", 3)
    assert entry.pop("time").endswith("+00:00")
    assert entry == {
        "level": "ERROR",
        "logger": "services.some.module",
        "message": "took 3 s",
        "service": "gateway",
        "service_id": "gateway-1",
    }


def test_a_line_about_a_response_has_its_id() -> None:
    assert line("%s: the claim is void", RESPONSE)["response_id"] == RESPONSE
    assert "response_id" not in line("nothing about any")


def test_a_line_in_a_span_has_its_ids() -> None:
    with tracer.start_as_current_span("outer") as span:
        entry = line("hello")
    assert entry["trace_id"] == f"{span.get_span_context().trace_id:032x}"
    assert entry["span_id"] == f"{span.get_span_context().span_id:016x}"
    assert "trace_id" not in line("hello")


def test_a_line_about_another_span_has_the_ids_of_that() -> None:
    other = tracer.start_span("generation")
    with tracer.start_as_current_span("outer"):
        entry = line("hello", extra=about(other))
    assert entry["span_id"] == f"{other.get_span_context().span_id:016x}"


def test_an_exception_keeps_what_it_may_quote_to_itself() -> None:
    told = line("broken", exc_info=raised(), extra=OUTSPOKEN)["exception"]
    discreet = line("broken", exc_info=raised())["exception"]
    assert SECRET in told
    assert SECRET not in discreet
    assert "KeyError (its message is not shown)" in discreet
    assert "RecordError: no such role" in discreet
    assert __file__ in discreet


def test_the_parts_of_a_group_are_told() -> None:
    group = ExceptionGroup(SECRET, [KeyError(SECRET), RecordError("no such role")])
    printed = line("broken", exc_info=group)["exception"]
    assert SECRET not in printed
    assert "KeyError" in printed
    assert "RecordError: no such role" in printed


def test_an_exception_that_caused_itself_is_told_once() -> None:
    first, second = KeyError(SECRET), RecordError("no such role")
    first.__cause__, second.__cause__ = second, first
    printed = line("broken", exc_info=first)["exception"]
    assert printed.count("KeyError") == printed.count("RecordError: no such role") == 1
    group = ExceptionGroup(SECRET, [first])
    second.__cause__ = group
    assert line("broken", exc_info=group)["exception"].count("KeyError") == 1


def test_a_long_chain_of_causes_is_told() -> None:
    last = RecordError("0")
    for number in range(1, 2 * sys.getrecursionlimit()):
        following = RecordError(str(number))
        following.__cause__, last = last, following
    assert line("broken", exc_info=last)["exception"].startswith("Traceback (most recent call last):\nRecordError: 0\n")


def test_a_cause_is_told_in_our_words_only() -> None:
    assert cause_of(RecordError("no such role")) == "no such role"
    assert cause_of(KeyError(SECRET)) == "KeyError"
    assert cause_of(ConnectionResetError(104, "reset")) == "ConnectionResetError: [Errno 104] reset"
    assert cause_of(ImportError("No module named 'torch'")) == "ImportError: No module named 'torch'"
    assert cause_of(RequestTimedOutError()) == "RequestTimedOutError: [Error 7] RequestTimedOutError"


def test_a_named_cause_has_its_type_even_where_it_is_ours() -> None:
    assert named_cause_of(RecordError("no such role")) == "RecordError: no such role"
    assert named_cause_of(KeyError(SECRET)) == "KeyError"


PROCESS = """
import logging, threading, warnings
from shared.settings import MeshSettings
from shared.telemetry import extract
from shared.telemetry.logs import setup_logging
from shared.telemetry.otlp import check_exporter
from shared.errors import SettingsError
setup_logging(MeshSettings(log_level="{level}", log_format="{format}", service_id="x-1"), "gateway")
logging.getLogger("services.any").debug("ours")
logging.getLogger("pymongo.command").debug("SECRET")
logging.getLogger("websockets.server").info("SECRET")
logging.getLogger("aiokafka").error("SECRET")
extract({"traceparent": "00-" + "a" * 32 + "-" + "b" * 16 + "-01", "tracestate": "SECRET what a client likes"})
try:
    check_exporter({"OTEL_EXPORTER_OTLP_HEADERS": "Authorization:Bearer SECRET"})
except SettingsError as error:
    logging.getLogger("services.any").error("%s", error)
logging.getLogger("some.library").warning("theirs")
warnings.warn("beware")
def fails():
    raise ValueError("SECRET")
thread = threading.Thread(target=fails, name="worker-thread")
thread.start()
thread.join()
"""


def output_of(**settings: str) -> str:
    code = PROCESS
    for name, value in settings.items():
        code = code.replace("{" + name + "}", value)
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60).stderr


@pytest.mark.parametrize(("level", "speaks"), [("DEBUG", True), ("INFO", False)])
def test_only_our_own_code_speaks_below_warning(level: str, speaks: bool) -> None:
    lines = [json.loads(each) for each in output_of(level=level, format="json").splitlines()]
    messages = [each["message"] for each in lines]
    assert ("ours" in messages) is speaks
    assert "theirs" in messages
    assert "SECRET" not in json.dumps(lines)
    assert any("beware" in message for message in messages), "warnings are log lines too"
    assert any(message == "worker-thread failed" for message in messages), "and so are the failures of threads"
    assert {each["service_id"] for each in lines} == {"x-1"}


FAILS = """
import sys
from shared.errors import ChatmeshError
from shared.runtime import main_of
from shared.settings import MeshSettings
async def serve(settings, stop):
    raise ChatmeshError("no broker at all")
sys.argv = ["any"]
sys.exit(main_of("gateway", None, MeshSettings, serve))
"""


LEAVES = """
import asyncio, gc, sys
from shared.runtime import main_of
from shared.settings import MeshSettings
class Closes:
    def __del__(self):
        raise ValueError("SEC" + "RET")
async def fails():
    raise ValueError("SEC" + "RET")
def callback(text):
    raise ValueError(text)
async def serve(settings, stop):
    task = asyncio.create_task(fails(), name="a task of ours")
    asyncio.get_running_loop().call_soon(callback, "SEC" + "RET")
    future = asyncio.get_running_loop().create_future()
    future.set_exception(ValueError("SEC" + "RET"))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    del task, future
    Closes()
    gc.collect()
sys.argv = ["any"]
sys.exit(main_of("gateway", None, MeshSettings, serve))
"""


def test_what_nobody_awaited_is_told_without_its_words() -> None:
    environment = {**os.environ, "CHATMESH_LOG_FORMAT": "json"}
    ended = subprocess.run(
        [sys.executable, "-c", LEAVES], capture_output=True, text=True, check=True, timeout=60, env=environment
    )
    assert "SECRET" not in ended.stderr
    lines = [json.loads(each) for each in ended.stderr.splitlines()]
    assert {each["message"] for each in lines} == {
        "Task exception was never retrieved: a task of ours",
        "Future exception was never retrieved",
        "Exception in callback",
        "an error in Closes.__del__ could not be raised",
    }
    assert all("ValueError (its message is not shown)" in each["exception"] for each in lines)


@pytest.mark.parametrize("log_format", ["json", "text"])
def test_the_error_that_ends_a_service_is_a_line_too(log_format: str) -> None:
    environment = {**os.environ, "CHATMESH_LOG_FORMAT": log_format}
    ended = subprocess.run(
        [sys.executable, "-c", FAILS], capture_output=True, text=True, check=False, timeout=60, env=environment
    )
    assert ended.returncode == 1
    if log_format == "text":
        assert ended.stderr == "error: no broker at all\n"
    else:
        entry = json.loads(ended.stderr)
        assert (entry["level"], entry["message"]) == ("CRITICAL", "no broker at all")
        assert entry["service_id"].startswith("gateway_"), "an id of its own, where none was given"


def test_text_is_as_discreet_as_json() -> None:
    printed = output_of(level="DEBUG", format="text")
    assert "ours" in printed
    assert "worker-thread failed" in printed
    assert "SECRET" not in printed.replace('raise ValueError("SECRET")', "")
