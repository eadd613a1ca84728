"""`python -m deploy.tracing.check`, the command behind `make trace-check`: is a response's trace whole?

Sends one request to the running mesh, asks the trace UI for the response's trace, and compares it with the service
graph (`deploy/tracing/graph.py`). Exit status 1 says what is missing or unexpected.
"""

import argparse
import os
import sys
import time
from collections.abc import Sequence

import openai

from deploy.local.access import api_key, http_options, is_address
from deploy.local.announced import running_address
from deploy.local.arguments import seconds
from deploy.local.errors import RunError
from deploy.tracing.graph import SpanSeen, faults, own_trace
from deploy.tracing.settings import TraceUiSettings, running_ui
from deploy.tracing.tree import tree
from deploy.tracing.uis import UIS, TraceUi
from shared.errors import ChatmeshError
from shared.settings import load_settings

_POLL_S = 0.5
_SAY_EVERY_S = 5.0
_TOKENS = 16


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status 0 for a whole trace, 1 with what is wrong, 130 after Ctrl-C."""
    options = _parser().parse_args(arguments)
    try:
        return _check(options, load_settings(TraceUiSettings))
    except ChatmeshError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="make trace-check ARGS=…", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--response", metavar="ID", help="look at this response instead of sending a request")
    parser.add_argument("--ui", choices=sorted(UIS), default="phoenix", help="which trace UI (default: phoenix)")
    parser.add_argument("--url", help="its address (default: where the `make trace-ui` of this folder runs)")
    parser.add_argument("--base-url", help="the gateway (default: that of the `make run` of this folder)")
    parser.add_argument(
        "--timeout", type=seconds, default=30.0, metavar="S", help="how long to wait for spans, seconds"
    )
    return parser


def _check(options: argparse.Namespace, settings: TraceUiSettings) -> int:
    for name in (options.url, options.base_url):
        if name and not is_address(name):
            raise RunError(f"{name!r} is no address: write http://host:port")
    address = options.url or running_ui(settings.data_dir)
    if address is None:
        raise RunError("no trace UI runs for this folder: `make trace-ui`, then `make run`; or name one with --url")
    fresh = options.response is None
    response_id = _ask(options.base_url or running_address(settings.data_dir)) if fresh else options.response
    found, wrong = _settled(UIS[options.ui](address), response_id, options.timeout, undisturbed=fresh)
    if not found:
        raise RunError(
            f"{address} knows nothing of {response_id} after {options.timeout:g} s. Were the services started with "
            "OTEL_EXPORTER_OTLP_ENDPOINT (`make run` sets it where `make trace-ui` runs already)? Was it sampled?"
        )
    for line in tree(found):
        print(line)
    for line in wrong:
        print(f"✗ {line}")
    if wrong:
        print(f"error: the trace of {response_id} is not as the service graph says", file=sys.stderr)
        return 1
    print(f"✓ {response_id}: one trace of {len(found)} spans, as the service graph says")
    return 0


def _ask(address: str | None) -> str:
    """The id of a response that was made just now. Raises RunError, SettingsError."""
    if address is None:
        raise RunError("no mesh runs in this folder: start one with `make run`, or name a gateway with --base-url")
    root = f"{address.rstrip('/').removesuffix('/v1')}/v1"
    http = openai.DefaultHttpxClient(**http_options(root))
    client = openai.OpenAI(base_url=root, api_key=api_key(os.environ), max_retries=0, http_client=http)
    try:
        model = client.models.list().data[0].id
        made = client.responses.create(model=model, input="Say hello.", max_output_tokens=_TOKENS, store=True)
    except openai.OpenAIError as error:
        raise RunError(f"{address} gave no response: {error}") from error
    except IndexError as error:
        raise RunError(f"{address} serves no model yet: wait until it is ready") from error
    print(f"asked {model} at {address}: {made.id}")
    return made.id


def _settled(ui: TraceUi, response_id: str, timeout_s: float, *, undisturbed: bool) -> tuple[list[SpanSeen], list[str]]:
    """The response's trace and what is wrong with it, once nothing is, or nothing more comes in time."""
    begun = said = time.monotonic()
    while True:
        found = own_trace(ui.spans_of(response_id), response_id)
        wrong = faults(found, undisturbed=undisturbed)
        now = time.monotonic()
        if not wrong or now - begun > timeout_s:
            return found, wrong
        if now - said > _SAY_EVERY_S:
            said = now
            print(f"  {len(found)} spans after {now - begun:.0f} s, waiting for the rest ...", file=sys.stderr)
        time.sleep(_POLL_S)


if __name__ == "__main__":
    sys.exit(main())
