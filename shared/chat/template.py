"""A model's chat template, rendered as `transformers.apply_chat_template` renders it.

Templates come from a download and are code: they run in Jinja's immutable sandbox.
"""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NoReturn

import jinja2
from jinja2.ext import Extension, loopcontrols
from jinja2.nodes import CallBlock, Node
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from shared.chat.errors import ChatTemplateError, UnsupportedTokenizerError

Message = Mapping[str, str]


class ChatTemplate:
    """A compiled template and the special tokens that it may name (`bos_token`, `eos_token`, …)."""

    def __init__(self, source: str, special_tokens: Mapping[str, str]) -> None:
        """Raises UnsupportedTokenizerError if `source` is no valid Jinja template."""
        self._special_tokens = dict(special_tokens)
        # A template that never says "developer" would refuse the role or print it into the prompt unseen in training.
        self._knows_developer = "developer" in source
        try:
            self._template = _environment().from_string(source)
        except jinja2.TemplateSyntaxError as error:
            raise UnsupportedTokenizerError(f"the model's chat template is no valid Jinja: {error}") from error

    def render(self, messages: Sequence[Message], *, add_generation_prompt: bool) -> str:
        """The prompt's text.

        Raises ChatTemplateError if the template refuses the conversation.
        """
        try:
            return self._template.render(
                messages=[self._in_dialect(message) for message in messages],
                tools=None,
                documents=None,
                add_generation_prompt=add_generation_prompt,
                **self._special_tokens,
            )
        except jinja2.TemplateError as error:
            raise ChatTemplateError(f"the model's chat template refuses this conversation: {error}") from error

    def rewritten(self, source: str, **names: str) -> "ChatTemplate":
        """Another template for the same model, which may name its special tokens and `names`.

        Raises UnsupportedTokenizerError if `source` is no valid Jinja template.
        """
        return ChatTemplate(source, {**self._special_tokens, **names})

    def _in_dialect(self, message: Message) -> dict[str, str]:
        if message["role"] == "developer" and not self._knows_developer:
            return {**message, "role": "system"}
        return dict(message)


def _environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationBlock, loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = _strftime_now
    return environment


class _GenerationBlock(Extension):
    """`{% generation %}…{% endgeneration %}` marks what the assistant said, for training; here it only renders."""

    tags = {"generation"}

    def parse(self, parser: Parser) -> Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return CallBlock(self.call_method("_render"), [], [], body).set_lineno(line)

    def _render(self, caller: Any) -> str:
        return str(caller())


def _to_json(value: Any, **options: Any) -> str:
    """Unlike Jinja's own filter it does not escape HTML characters: the reader is a model."""
    return json.dumps(value, **{"ensure_ascii": False, **options})


def _raise_exception(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _strftime_now(pattern: str) -> str:
    return datetime.now().strftime(pattern)
