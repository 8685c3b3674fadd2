"""Runs a command on a RabbitMQ and a Redis of its own: `python -m benchmarks.on_servers smsim scale --distributed`."""

import os
import subprocess
import sys

from tests.servers import RabbitServer, RedisServer


def main() -> int:
    """Gives the command's exit code; what the command writes is its own affair."""
    if len(sys.argv) < 2:
        print("usage: python -m benchmarks.on_servers COMMAND [ARGUMENT ...]", file=sys.stderr)
        return 2
    with RabbitServer() as rabbit, RedisServer() as redis:
        servers = {
            "RABBITMQ_HOST": rabbit.host,
            "RABBITMQ_PORT": str(rabbit.port),
            "REDIS_HOST": redis.host,
            "REDIS_PORT": str(redis.port),
        }
        return subprocess.run(sys.argv[1:], env={**os.environ, **servers}, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
