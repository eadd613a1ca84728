"""A model's tokenizer and chat template, for services that never load its weights.

tokenizer = load_chat_tokenizer("")                       # the default model, in about 0.3 s
prompt_ids = tokenizer.encode([{"role": "user", "content": "What is the capital of France?"}])
decoder = tokenizer.decode_stream()
text = "".join(decoder.push(token_id) for token_id in ids) + decoder.flush()
"""

from shared.chat.errors import ChatTemplateError, ModelNotFoundError, UnsupportedTokenizerError
from shared.chat.loading import load_chat_tokenizer
from shared.chat.sources import DEFAULT_MODEL_ID, ModelSource, locate_model
from shared.chat.template import ChatTemplate, Message
from shared.chat.tokenizer import ChatTokenizer, IncrementalDecoder

__all__ = [
    "DEFAULT_MODEL_ID",
    "ChatTemplate",
    "ChatTemplateError",
    "ChatTokenizer",
    "IncrementalDecoder",
    "Message",
    "ModelNotFoundError",
    "ModelSource",
    "UnsupportedTokenizerError",
    "load_chat_tokenizer",
    "locate_model",
]
