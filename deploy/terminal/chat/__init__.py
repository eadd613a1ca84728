"""`make chat`: `answer` is pure, `gateways` and `line` talk to the mesh, `conversation` and `prompt` to the person."""
