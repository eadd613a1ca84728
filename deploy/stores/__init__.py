"""Servers that speak MongoDB's protocol, for tests and local runs: one small port, an adapter for each kind.

port       StoreServer, StoreServerError
ferretdb   FerretDB 1.x over SQLite files, built from Go modules: needs the Go toolchain
container  MongoDB itself, a replica set of one: needs a Docker engine
external   the server at MONGODB_URL
select     which of them the tests use
"""

from deploy.stores.port import StoreServer, StoreServerError

__all__ = ["StoreServer", "StoreServerError"]
