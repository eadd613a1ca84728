"""Brokers for tests: `broker` runs a test on each of them; a suite that this machine can run must have run.

--broker=embedded|kafka|all   which brokers (all)
--only-broker-tests           leave out the tests that use none, and those marked `any_broker`
CHATMESH_REQUIRE_BROKERS      comma-separated suites that must run; without it: all that this machine can run
CHATMESH_REQUIRE_STORES       the same for stores (tests with "mongodb" among their parameters or fixtures)
CHATMESH_REQUIRE_NODE=1       the suite on Node.js (tests that take `node`) must run; without it: where npm is
"""

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from deploy.brokers import Broker
from deploy.brokers.select import SUITES, broker_for_suite, suite_trouble
from deploy.stores import StoreServer
from deploy.stores import select as stores
from tests.clients import nodejs
from tests.support.suites import REQUIRE_BROKERS, named_in

_REQUIRE_STORES = "CHATMESH_REQUIRE_STORES"
_NODE = "node"
_FIRST_START_S = 900
"""For a test that may be the first to start MongoDB's server: it is built then, while another suite has the cores."""
_COLLECTED = pytest.StashKey[set[str]]()
_EXECUTED = pytest.StashKey[set[str]]()

settings.register_profile("chatmesh", deadline=None)  # a busy machine is no bug
settings.load_profile("chatmesh")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--broker", choices=[*SUITES, "all"], default="all", help="brokers to test on (all)")
    parser.addoption("--only-broker-tests", action="store_true", help="leave out tests that use no broker")


def pytest_configure(config: pytest.Config) -> None:
    for variable, suites in ((REQUIRE_BROKERS, SUITES), (_REQUIRE_STORES, stores.SUITES)):
        if unknown := named_in(variable) - set(suites):
            raise pytest.UsageError(f"{variable} names {', '.join(sorted(unknown))}; there are {', '.join(suites)}")
    config.stash[_COLLECTED] = set()
    config.stash[_EXECUTED] = set()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "broker" in metafunc.fixturenames:
        metafunc.parametrize("broker", _selected(metafunc.config), indirect=True, scope="session")


@pytest.hookimpl(trylast=True)  # what -k and -m leave out was not collected
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--only-broker-tests"):
        others = [item for item in items if _suite_of(item) is None or item.get_closest_marker("any_broker")]
        config.hook.pytest_deselected(items=others)
        items[:] = [item for item in items if item not in set(others)]
    config.stash[_COLLECTED].update(*map(_suites_of, items))
    for item in items:
        if stores.MONGODB in _suites_of(item):
            item.add_marker(pytest.mark.timeout(_FIRST_START_S))  # behind a limit of the test's own, which counts


@pytest.fixture(scope="session")
def broker(request: pytest.FixtureRequest) -> Iterator[Broker]:
    """A running broker, one for all tests of its suite; it ends after the last of them, whatever happened.

    Its topics are shared: a test that kills or restarts a broker starts one of its own.
    """
    suite = str(request.param)
    trouble = suite_trouble(suite)
    if trouble is not None:
        if suite in named_in(REQUIRE_BROKERS):
            pytest.fail(f"{REQUIRE_BROKERS} asks for the suite on {suite}, and it cannot run here: {trouble}")
        pytest.skip(f"no {suite} broker here: {trouble}")
    with broker_for_suite(suite) as running:
        yield running


@pytest.fixture(scope="session")
def mongodb() -> Iterator[StoreServer]:
    """A running server that speaks MongoDB's protocol, one for all tests: each takes a database of its own."""
    trouble = stores.server_trouble()
    if trouble is not None:
        if stores.MONGODB in named_in(_REQUIRE_STORES):
            pytest.fail(f"{_REQUIRE_STORES} asks for the suite on MongoDB, and it cannot run here: {trouble}")
        pytest.skip(f"no MongoDB here: {trouble}")
    with stores.server_for_tests() as running:
        yield running


@pytest.fixture(scope="session")
def node() -> Path:
    """A Node.js with the pinned packages; where npm is missing, a reason to skip, or to fail if that was demanded."""
    trouble = nodejs.trouble()
    if trouble is None:
        return nodejs.installed()
    if nodejs.required():
        pytest.fail(f"{nodejs.REQUIRE} asks for the suites on Node.js, and they cannot run here: {trouble}")
    pytest.skip(f"no Node.js here: {trouble}")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Iterator[None] | object:  # a hook wrapper gets the report back from `yield`
    report = yield
    if call.when == "call" and not report.skipped:
        item.config.stash[_EXECUTED].update(_suites_of(item))
    return report


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    if _not_run(session.config) and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    for suite in sorted(_not_run(config)):
        what = {_NODE: "on Node.js", **{store: f"on {store}" for store in stores.SUITES}}.get(
            suite, f"on the {suite} broker"
        )
        terminalreporter.write_line(f"ERROR: every test {what} was skipped, and it must run", red=True)


def _not_run(config: pytest.Config) -> set[str]:
    """Suites whose tests were collected, that must run, and of which not one test was carried out."""
    if config.option.collectonly:
        return set()
    idle = config.stash[_COLLECTED] - config.stash[_EXECUTED]
    return {suite for suite in idle if suite in _required_by_name() or _trouble(suite) is None}


def _required_by_name() -> set[str]:
    return named_in(REQUIRE_BROKERS) | named_in(_REQUIRE_STORES) | ({_NODE} if nodejs.required() else set())


def _trouble(suite: str) -> str | None:
    if suite in stores.SUITES:
        return stores.suite_trouble(suite)
    return nodejs.trouble() if suite == _NODE else suite_trouble(suite)


def _selected(config: pytest.Config) -> list[str]:
    chosen = config.getoption("--broker")
    return list(SUITES) if chosen == "all" else [chosen]


def _suites_of(item: pytest.Item) -> set[str]:
    """Its broker's suite, its stores', and Node.js'."""
    broker_suite = _suite_of(item)
    fixtures = set(getattr(item, "fixturenames", ()))
    callspec = getattr(item, "callspec", None)
    parameters = {value for value in callspec.params.values() if isinstance(value, str)} if callspec else set()
    on_stores = set(stores.SUITES) & (fixtures | parameters)
    return {*([broker_suite] if broker_suite else ()), *({_NODE} & fixtures), *on_stores}


def _suite_of(item: pytest.Item) -> str | None:
    callspec = getattr(item, "callspec", None)
    return callspec.params.get("broker") if callspec is not None else None
