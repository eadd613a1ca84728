"""How chatmesh is brought up: brokers for tests and local runs, and the runner behind `make run`."""
