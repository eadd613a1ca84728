"""What an HTTP operation is, to the router and to the published document."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel
from starlette.routing import Route


@dataclass(frozen=True, slots=True)
class Parameter:
    """A parameter of the query, the path or the headers; `schema` is JSON Schema."""

    name: str
    schema: Mapping[str, Any]
    description: str
    place: str = "query"


@dataclass(frozen=True, slots=True)
class Operation:
    """One method of one path. `path` is Starlette's, so that routes and document are made of the same.

    `reply`: the JSON body of a 200. `streams`: with `stream` true it is server-sent events instead. `errors`: the
    statuses beyond those that any operation may have. `public`: needs no key. `others`: further statuses whose body is
    no error envelope.
    """

    method: str
    path: str
    endpoint: Callable[..., Any]
    name: str
    summary: str
    reply: type[BaseModel]
    description: str = ""
    body: type[BaseModel] | None = None
    streams: str = ""
    parameters: tuple[Parameter, ...] = ()
    errors: tuple[int, ...] = ()
    public: bool = False
    others: Mapping[int, type[BaseModel]] = field(default_factory=dict)

    def route(self) -> Route:
        """Where Starlette finds it."""
        return Route(self.path, self.endpoint, methods=[self.method])
