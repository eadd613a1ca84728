"""What the policy file says about its backends, one class per `kind`; they live in `services.moderation.backends`.

A backend's own words (a model's labels, a detector's entities) are mapped to categories of the policy; `meant` names
those categories, so that a name that the policy lacks is found when the file is read.
"""

import re
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from shared.records import MODERATION_CATEGORIES

OnFailure = Literal["closed", "open"]
Activation = Literal["sigmoid", "softmax"]

MAX_TIMEOUT_S = 60.0

ENCODER_CATEGORIES = (
    *("sexual", "hate", "violence", "harassment", "self-harm", "hate/threatening", "violence/graphic"),
    "any",
)
"""What the built-in classifier scores: the outputs of its head, which only it can read (numpy)."""


class Section(BaseModel):
    """Base of every mapping of the policy file: unknown keys and near misses of a type are faults."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


def _quoted(value: Any) -> Any:
    if isinstance(value, list | dict):  # not repeated: aliases may make it longer than any memory
        raise ValueError("must be text, in quotes")
    if not isinstance(value, str):
        raise ValueError(f"put it in quotes: YAML reads it as {value!r} (so with numbers, and bare yes, no, on, off)")
    return value


def _regex(value: str) -> str:
    try:
        re.compile(value)
    except (re.error, OverflowError, RecursionError) as error:
        raise ValueError(f"not a regular expression: {error}") from error
    return value


def _no_credentials(value: str) -> str:
    if not re.fullmatch(r"https?://[^\s/@?#]+(?:/[^\s@?#]*)?", value):
        raise ValueError("must be http(s)://host[:port][/path], without credentials (a key goes by api_key_env)")
    if not _has_host_and_port(value):
        raise ValueError("must be http(s)://host[:port][/path], with a host, and a port from 1 to 65535 if any")
    return value.rstrip("/")


def _has_host_and_port(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is no number, or too high; half of an IPv6 address
        return False


def _names_a_variable(value: str) -> str:
    if not re.fullmatch(r"[A-Z_][A-Z0-9_]{0,127}", value):
        # The value is not repeated: it may be the key.
        raise ValueError("must name an environment variable, like OPENAI_API_KEY; the key itself never stands here")
    return value


Word = Annotated[str, BeforeValidator(_quoted), Field(min_length=1)]
Regex = Annotated[str, BeforeValidator(_quoted), Field(min_length=1), AfterValidator(_regex)]
CategoryName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_/-]{0,63}$")]
ModelName = Annotated[str, Field(min_length=1, max_length=1_000, description="hub id, or a folder")]


class _Backend(Section):
    timeout_s: float = Field(default=2.0, gt=0, le=MAX_TIMEOUT_S, description="an answer that takes longer is late")
    on_failure: OnFailure = Field(
        default="closed", description="closed: without its answer nothing is accepted or published; open: others decide"
    )

    def __hash__(self) -> int:
        """By what it says, mappings included: backends of equal specs are shared."""
        return hash(self.model_dump_json())

    @property
    def meant(self) -> dict[tuple[str, ...], str]:
        """Where in the backend's section a category is named → which."""
        return {}

    @property
    def finds(self) -> tuple[str, ...]:
        """The categories that it may find: those that its section names, or its own."""
        return tuple(dict.fromkeys(self.meant.values()))


class EncoderSpec(_Backend):
    """The built-in classifier: a sentence encoder with a head of ours."""

    kind: Literal["encoder"]

    @property
    def finds(self) -> tuple[str, ...]:
        return ENCODER_CATEGORIES


class TextClassificationSpec(_Backend):
    """Any text-classification model of the Hugging Face hub, or one in a folder."""

    kind: Literal["text-classification"]
    model: ModelName
    revision: str | None = Field(default=None, min_length=1, description="commit, tag or branch of the hub")
    labels: dict[Word, CategoryName] = Field(min_length=1, description="label of the model → category")
    activation: Activation | None = Field(default=None, description="what its configuration says, where not given")

    @property
    def meant(self) -> dict[tuple[str, ...], str]:
        return _mapped("labels", self.labels)


class GuardSpec(_Backend):
    """A generative guard model: it reads the conversation in a template and answers in words."""

    kind: Literal["guard"]
    model: ModelName
    revision: str | None = Field(default=None, min_length=1, description="commit, tag or branch of the hub")
    template: str = Field(min_length=1, description="Jinja over `messages` (role, content) and `stage` (input, output)")
    safe: Regex = Field(description="regular expression: an answer in which it is found is harmless")
    labels: dict[Regex, CategoryName] = Field(
        min_length=1, description="regular expression, or code like S1 → category"
    )
    max_tokens: int = Field(default=32, ge=1, le=1_024, description="the longest answer")

    @property
    def meant(self) -> dict[tuple[str, ...], str]:
        return _mapped("labels", self.labels)


class UpstreamSpec(_Backend):
    """The Moderations API of another service, which names the categories as OpenAI does."""

    kind: Literal["upstream"]
    base_url: Annotated[str, AfterValidator(_no_credentials)] = Field(description="up to and without /moderations")
    model: str = Field(default="omni-moderation-latest", min_length=1)
    api_key_env: Annotated[str, AfterValidator(_names_a_variable)] | None = Field(
        default=None, description="the environment variable that holds the key"
    )

    @property
    def finds(self) -> tuple[str, ...]:
        return MODERATION_CATEGORIES


class PersonalDataSpec(_Backend):
    """presidio-analyzer, offline: e-mail addresses, card numbers and the like, with their places."""

    kind: Literal["personal-data"]
    entities: dict[Word, CategoryName] = Field(min_length=1, description="entity of presidio → category")
    language: str = Field(default="en", pattern=r"^[a-z]{2}$")

    @property
    def meant(self) -> dict[tuple[str, ...], str]:
        return _mapped("entities", self.entities)


class SecretsSpec(_Backend):
    """detect-secrets: keys and tokens, with their places."""

    kind: Literal["secrets"]
    category: CategoryName

    @property
    def meant(self) -> dict[tuple[str, ...], str]:
        return {("category",): self.category}


BackendSpec = EncoderSpec | TextClassificationSpec | GuardSpec | UpstreamSpec | PersonalDataSpec | SecretsSpec
AnyBackend = Annotated[BackendSpec, Field(discriminator="kind")]


def _mapped(key: str, labels: dict[str, str]) -> dict[tuple[str, ...], str]:
    return {(key, label): category for label, category in labels.items()}
