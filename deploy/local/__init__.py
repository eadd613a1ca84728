"""The runner behind `make run`: a broker, the topics and the four services on this machine, until Ctrl-C.

settings   what it reads from the environment, and what it hands on to the services
preflight  a second start, a taken port, a model that is not there: said before anything starts
progress   what is being waited for (pure)
screen     shows it: redrawn on a terminal, line by line elsewhere
logs       errors from the services' log files
mesh       the processes: start in order, watch, end in order
access     what a person names to reach a gateway: an address, a key
readiness  signs of life from `service.heartbeats`, and the gateway's /readyz
targets    where the services show their metrics
runner     all of it together
"""
