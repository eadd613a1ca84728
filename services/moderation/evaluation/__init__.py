"""How good a policy is on labelled texts: `python -m services.moderation.evaluation` (`make eval-moderation`)."""
