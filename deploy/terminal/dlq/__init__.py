"""`make dlq`: dead letters. `letters` and `rules` are pure, `redriving` appends, `__main__` is the command."""
