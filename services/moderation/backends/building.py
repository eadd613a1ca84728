"""From what a policy says of a backend to the backend. Nothing heavy is imported before one is started."""

from services.moderation.backends.port import Backend
from services.moderation.policy import (
    BackendSpec,
    EncoderSpec,
    GuardSpec,
    PersonalDataSpec,
    SecretsSpec,
    TextClassificationSpec,
    UpstreamSpec,
)


def build_backend(name: str, spec: BackendSpec, *, threads: int = 1) -> Backend:
    """The backend that the policy calls `name`, not started. What cannot work is told by its `start`. `threads`: cores
    that a classifier may take."""
    match spec:
        case EncoderSpec():
            from services.moderation.backends.encoder import EncoderBackend

            return EncoderBackend(name, threads=threads)
        case TextClassificationSpec():
            from services.moderation.backends.hugging_face import HuggingFaceBackend

            return HuggingFaceBackend(name, spec, threads=threads)
        case GuardSpec():
            from services.moderation.backends.guard import GuardBackend

            return GuardBackend(name, spec)
        case UpstreamSpec():
            from services.moderation.backends.upstream import UpstreamBackend

            return UpstreamBackend(name, spec)
        case PersonalDataSpec():
            from services.moderation.backends.personal_data import personal_data_backend

            return personal_data_backend(name, spec)
        case SecretsSpec():
            from services.moderation.backends.secrets import secrets_backend

            return secrets_backend(name, spec)
