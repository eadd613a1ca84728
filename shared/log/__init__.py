"""The log: the only way in which services touch Kafka on the token path. All aiokafka calls live here."""

from shared.log.admin import ensure_topics, existing_partitions, partitions_found, prepare_log, wait_for_broker
from shared.log.dead_letters import note_lost, put_aside, put_work_aside
from shared.log.group import GroupConsumer
from shared.log.replay import Replay, Replayer
from shared.log.tail import RawRecord, Tail, decode, decode_of_response
from shared.log.writer import Appended, LogWriter, failing_late

__all__ = [
    "Appended",
    "GroupConsumer",
    "LogWriter",
    "RawRecord",
    "Replay",
    "Replayer",
    "Tail",
    "decode",
    "decode_of_response",
    "ensure_topics",
    "existing_partitions",
    "failing_late",
    "note_lost",
    "partitions_found",
    "prepare_log",
    "put_aside",
    "put_work_aside",
    "wait_for_broker",
]
