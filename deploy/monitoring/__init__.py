"""What operators see: Prometheus' rules and configuration, Grafana's dashboard.

prometheus/   rules, their tests, a configuration for `make run` and one for containers
grafana/      the dashboard (written by `make dashboard`) and how Grafana finds it
dashboard     the dashboard's panels
panels        how a panel becomes Grafana's JSON
"""
