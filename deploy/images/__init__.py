"""Images: a Dockerfile per service, and a rehearsal of each where no engine runs."""
