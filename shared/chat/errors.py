"""Why a model's tokenizer cannot be used. Both say in their message what to do about it."""

from shared.errors import ChatmeshError, ModelError


class ModelNotFoundError(ModelError):
    """The model spec names no file, folder or Hub repository that can be read from here."""


class UnsupportedTokenizerError(ModelError):
    """The model was found, but its tokenizer or chat template is of a kind that this release cannot build."""


class ChatTemplateError(ChatmeshError, ValueError):
    """The model's chat template refuses this conversation (roles that do not alternate, say): the caller's error."""
