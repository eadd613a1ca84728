"""Which server the tests of MongoDB's store use.

MONGODB_URL if set; else MongoDB itself in a container where Docker answers; else FerretDB, built with Go.
"""

import os
from collections.abc import Mapping

from deploy.brokers.container import docker_answers
from deploy.stores import external, ferretdb
from deploy.stores.container import MongoContainer
from deploy.stores.external import ExternalServer
from deploy.stores.ferretdb import FerretServer
from deploy.stores.port import StoreServer, StoreServerError

SQLITE = "sqlite"
MONGODB = "mongodb"
SUITES = (SQLITE, MONGODB)


def server_for_tests(environment: Mapping[str, str] = os.environ) -> StoreServer:
    """The server, not started. Raises StoreServerError when this machine can run none."""
    if url := environment.get(external.VARIABLE):
        return ExternalServer(url)
    if docker_answers():
        return MongoContainer()
    if (why := ferretdb.trouble()) is not None:
        raise StoreServerError(f"{why}; or start Docker, or set {external.VARIABLE} to a server of yours")
    return FerretServer()


def suite_trouble(suite: str, environment: Mapping[str, str] = os.environ) -> str | None:
    """Why this machine cannot run the suite of a store; None: it can."""
    return server_trouble(environment) if suite == MONGODB else None


def server_trouble(environment: Mapping[str, str] = os.environ) -> str | None:
    """Why this machine cannot run one; None: it can."""
    try:
        server_for_tests(environment)
    except StoreServerError as error:
        return str(error)
    return None
