"""Every span and attribute name, declared once.

Sources: OpenTelemetry semantic conventions, GenAI (status: Development, a repository of its own since 2026) and
messaging 1.44. Per-token work makes
no spans (DESIGN 8.7).
"""

from shared.topics import Topic

# GenAI: https://opentelemetry.io/docs/specs/semconv/gen-ai/gen-ai-spans/
OPERATION_NAME = "gen_ai.operation.name"
PROVIDER_NAME = "gen_ai.provider.name"
REQUEST_MODEL = "gen_ai.request.model"
REQUEST_TEMPERATURE = "gen_ai.request.temperature"
REQUEST_TOP_P = "gen_ai.request.top_p"
REQUEST_MAX_TOKENS = "gen_ai.request.max_tokens"
CONVERSATION_ID = "gen_ai.conversation.id"
RESPONSE_ID = "gen_ai.response.id"
RESPONSE_MODEL = "gen_ai.response.model"
RESPONSE_FINISH_REASONS = "gen_ai.response.finish_reasons"
USAGE_INPUT_TOKENS = "gen_ai.usage.input_tokens"
USAGE_OUTPUT_TOKENS = "gen_ai.usage.output_tokens"
USAGE_CACHED_TOKENS = "gen_ai.usage.cache_read.input_tokens"
INPUT_MESSAGES = "gen_ai.input.messages"
OUTPUT_MESSAGES = "gen_ai.output.messages"
PROVIDER = "chatmesh"
CHAT = "chat"

# Messaging: https://opentelemetry.io/docs/specs/semconv/messaging/kafka/
MESSAGING_SYSTEM = "messaging.system"
MESSAGING_OPERATION_NAME = "messaging.operation.name"
MESSAGING_OPERATION_TYPE = "messaging.operation.type"
MESSAGING_DESTINATION = "messaging.destination.name"
MESSAGING_PARTITION = "messaging.destination.partition.id"
MESSAGING_OFFSET = "messaging.kafka.offset"
KAFKA = "kafka"

# HTTP server
HTTP_METHOD = "http.request.method"
HTTP_ROUTE = "http.route"
HTTP_STATUS = "http.response.status_code"
ERROR_TYPE = "error.type"

# chatmesh's own
SERVICE = "chatmesh.service"
SERVICE_ID = "chatmesh.service.id"
CAPTURES_CONTENT = "chatmesh.captures_content"
"""On resources: whether the process puts prompts and answers on its spans."""
ATTEMPT = "chatmesh.attempt"
CLAIM = "chatmesh.claim"
EPOCH = "chatmesh.epoch"
TENANT = "chatmesh.tenant"
OUTCOME = "chatmesh.outcome"
POLICY = "chatmesh.policy"
REASON = "chatmesh.reason"
CATEGORY = "chatmesh.category"
WORKER = "chatmesh.worker"
POSITION = "chatmesh.position"
"""How many tokens the response had by then."""
PUBLIC_POSITION = "chatmesh.public_position"
"""How many code points of its raw text were public by then."""
OWNER = "chatmesh.owner"
STARTING_AFTER = "chatmesh.starting_after"
LAG_LIMIT_S = "chatmesh.lag_limit_s"
TOLD_INPUT_TOKENS = "chatmesh.usage.input_tokens"
TOLD_CACHED_TOKENS = "chatmesh.usage.cached_tokens"
TOLD_OUTPUT_TOKENS = "chatmesh.usage.output_tokens"
"""What the client was told that its response used."""
ORIGIN_TRACE = "chatmesh.origin.trace_id"
"""The trace that a link leads to, again: some UIs (Phoenix) show attributes, and no links."""

# What happened within a span
TAKEOVER = "chatmesh.takeover"
"""Somebody else goes on: on `screen output` a generation gets another worker, or the response another owner; on
`chat` this worker goes on at `chatmesh.position`."""
CANCEL = "chatmesh.cancel"
CUT = "chatmesh.cut"
EVICTED = "chatmesh.evicted"
"""A client lagged too far behind and was left."""

SCREEN_OUTPUT = "screen output"
RECORD = "record response"
GENERATION_LOST = "generation lost"
"""An attempt whose worker ended without a word: its own span was never exported, so the owner tells of it."""
RESUME = "resume stream"
"""A client that came back, told in the response's trace; its request has a trace of its own."""


def send(topic: Topic) -> str:
    """Producer span."""
    return f"send {topic.name}"


def process(topic: Topic) -> str:
    """Consumer span."""
    return f"process {topic.name}"


def chat(model: str) -> str:
    """The generation's span."""
    return f"{CHAT} {model}"


def messaging(topic: Topic, operation: str, partition: int, offset: int | None = None) -> dict[str, str | int]:
    """Attributes of a messaging span; `operation` is "send" or "process"."""
    attributes: dict[str, str | int] = {
        MESSAGING_SYSTEM: KAFKA,
        MESSAGING_OPERATION_NAME: operation,
        MESSAGING_OPERATION_TYPE: operation,
        MESSAGING_DESTINATION: topic.name,
        MESSAGING_PARTITION: str(partition),
    }
    if offset is not None:
        attributes[MESSAGING_OFFSET] = offset
    return attributes
