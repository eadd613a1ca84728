"""Every error that chatmesh raises on purpose.

    ChatmeshError
    ├── SettingsError            a setting is missing or wrong; names its environment variable
    ├── InvalidIdError           text that is not an id of ours
    ├── RecordError
    │   ├── UnknownRecordError   a record type (or schema version) that this release cannot read
    │   └── MalformedRecordError bytes that do not decode as their type says
    ├── TopicError               a service touches a topic that the registry does not grant it
    ├── AccessDeniedError        the broker refuses this client, or what it asks for: no retry mends that
    ├── LogError
    │   ├── AppendError          the broker did not take a record: the append failed, it is not merely slow
    │   ├── BrokerUnavailableError  no broker answers at the bootstrap address
    │   └── ReplayGoneError      the log's retention has passed: ask the store
    └── ModelError               a model or tokenizer cannot be loaded

Errors of libraries are translated at the edge that calls the library; nothing else may catch them.
"""


class ChatmeshError(Exception):
    """Base of the tree; its message is fit for an operator's eyes and says what to do."""


class SettingsError(ChatmeshError):
    """A setting is missing, malformed or contradicts another one."""


class InvalidIdError(ChatmeshError, ValueError):
    """The text is not an id of the expected kind."""


class RecordError(ChatmeshError):
    """A record that cannot be handled; ends in the topic's dead-letter queue."""


class UnknownRecordError(RecordError):
    """The record's type or schema version is not known to this release."""


class MalformedRecordError(RecordError):
    """The record's bytes do not match its declared type."""


class TopicError(ChatmeshError):
    """The topic registry does not allow this producer or consumer."""


class AccessDeniedError(ChatmeshError):
    """The broker answers, but does not let this client in, or do what it asked. No LogError: those are waited out, and
    this one ends the service, whose settings or rights must be mended."""


class LogError(ChatmeshError):
    """Base of what goes wrong between a service and the broker."""


class AppendError(LogError):
    """An append failed for good. The writer must not append to that sub-log again."""


class RecordRefusedError(AppendError):
    """It will fail every time: the record cannot be written down, or is longer than the broker takes."""


class BrokerUnavailableError(LogError):
    """No broker answered at the configured address."""


class ReplayGoneError(LogError):
    """The log no longer holds the beginning of this response."""


class ModelError(ChatmeshError):
    """A model, tokenizer or chat template cannot be loaded."""
