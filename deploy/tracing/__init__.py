"""Where traces are looked at: the UI of `make trace-ui`, and `make trace-check`, which reads it."""
