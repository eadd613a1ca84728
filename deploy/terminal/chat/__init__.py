"""`make chat`: `answer` and `closes` are pure, `gateways` and `line` talk to the mesh.

`conversation`, `prompt` and `screen` talk to the person.
"""
