"""The default classifier: a small encoder, and a head that was trained on its hidden states. Works offline."""
