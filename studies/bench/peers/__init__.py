"""The peers of `make bench`: other ways to do the same work, each a module with `publish` and `work`.

`python -m studies.bench.peers.NAME publish --count N` publishes N messages and ends; `… work` consumes until SIGTERM.
The addresses of the servers and the queue's name come from the environment, as for ours (RABBITMQ_HOST and others).
"""
