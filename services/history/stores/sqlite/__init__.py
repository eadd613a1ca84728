"""The embedded store: one SQLite file in WAL mode, one thread that writes, one that reads.

`synchronous=FULL`: Kafka's offsets are committed after `record` returns, so what it wrote must survive the loss of
power, not only of the process. One transaction, and so one fsync, per batch. Several replicas on one machine may
share the file.

What is erased leaves the file's bytes: `secure_delete` overwrites it, and the write-ahead log is emptied behind it.
What was never to be stored (`store` false, in a conversation) stands there while the response runs; what the
write-ahead log has of it goes with the next erasure or sweep.
"""

from services.history.stores.sqlite.file import switch_to_wal
from services.history.stores.sqlite.schema import MIGRATIONS
from services.history.stores.sqlite.store import SqliteStore

__all__ = ["MIGRATIONS", "SqliteStore", "switch_to_wal"]
