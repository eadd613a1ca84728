"""A server that somebody else runs, named by MONGODB_URL: tests use databases of their own on it, and drop them."""

from urllib.parse import urlsplit, urlunsplit

from deploy.stores.port import StoreServer, StoreServerError

VARIABLE = "MONGODB_URL"


class ExternalServer(StoreServer):
    """Taken for MongoDB itself; it is only used, neither started nor stopped."""

    name = "external"
    real = True
    controllable = False

    def __init__(self, url: str) -> None:
        self._parts = urlsplit(url)
        if not self._parts.scheme.startswith("mongodb") or not self._parts.netloc:
            raise StoreServerError(f"{VARIABLE} is no address of a MongoDB server (mongodb://host:port)")

    def url(self, database: str) -> str:
        return urlunsplit(self._parts._replace(path=f"/{database}"))

    def start(self) -> None:
        """It runs."""

    def stop(self) -> None:
        """It is not ours."""

    def kill(self) -> None:
        raise StoreServerError(f"the server at {VARIABLE} is not ours to kill")

    def restart(self) -> None:
        raise StoreServerError(f"the server at {VARIABLE} is not ours to restart")
