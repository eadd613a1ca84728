"""The default classifier: a small encoder, and a head that was trained on its hidden states. Works offline."""

from services.moderation.backends.encoder.backend import HEAD_FILE, EncoderBackend, head_revision

__all__ = ["HEAD_FILE", "EncoderBackend", "head_revision"]
