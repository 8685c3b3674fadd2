"""`smsim gateway`: REST, live events and the dashboard, over RabbitMQ and Redis."""

import asyncio
import logging
import ssl

from common.audit import AuditLog, open_audit_log
from common.broker.port import Broker
from common.broker.rabbitmq import connect_broker
from common.cli import (
    Parser,
    add_connect_timeout,
    run_command,
    settle_down,
    stop_on_signals,
    warn_of_near_misses,
    whole,
)
from common.errors import Refused, SmsimError
from common.health import beat
from common.ledger.port import Ledger
from common.logs import configure_logs
from common.metrics import metrics_served
from common.settings import Settings, load_settings
from common.stores import connect_stores, warn_of_another_queue
from gateway.app import Gateway
from gateway.doors import gateway_tls, refuse_open_doors
from gateway.stores import redis_gateway_stores

log = logging.getLogger(__name__)

BEAT_EVERY_S = 5.0


def main(argv: list[str] | None = None, prog: str = "smsim gateway") -> int:
    """Reads the arguments and serves until SIGTERM or Ctrl-C."""
    parser = Parser(prog, "Serves the REST API, live events and the dashboard.")
    parser.add_argument("--host", help="where it listens (GATEWAY_HOST)")
    parser.add_argument("--port", type=whole(0, 65535), help="(GATEWAY_PORT; 0: any free one)")
    add_connect_timeout(parser)
    args = parser.parse_args(argv)

    async def run() -> int:
        settings = load_settings(gateway_host=args.host, gateway_port=args.port)
        configure_logs("gateway", settings.log_level, settings.log_file)
        warn_of_near_misses()
        refuse_open_doors(settings)
        tls, audit = gateway_tls(settings), open_audit_log(settings, "gateway")
        return await _serve(settings, tls, audit, connect_timeout_s=args.connect_timeout)

    return run_command(prog, run)


async def _serve(
    settings: Settings, tls: ssl.SSLContext | None, audit: AuditLog | None, *, connect_timeout_s: float
) -> int:
    """Builds the gateway on RabbitMQ and Redis and runs it."""
    shared = await connect_stores(settings, connect_timeout_s)
    broker = await connect_broker(settings, "gateway", connect_timeout_s)
    await warn_of_another_queue(shared.client, settings)
    try:
        gateway = Gateway(settings, broker, redis_gateway_stores(shared, settings), audit=audit)
        stop = stop_on_signals()
        async with (
            metrics_served(settings, gateway.metrics.registry, gateway.metrics.refresh),
            gateway.serving(settings.gateway_host, settings.gateway_port, tls) as port,
        ):
            settle_down()
            address = {"host": settings.gateway_host, "port": port, "tls": tls is not None}
            log.info("gateway_listening", extra=address)
            beating = asyncio.create_task(_beat(shared.ledger, broker))
            await stop.wait()
            beating.cancel()
            log.info("gateway_stopping")
    finally:
        await broker.close()
        await shared.close()
    return 0


async def _beat(ledger: Ledger, broker: Broker) -> None:
    """For the container's health check: Redis takes writes, and RabbitMQ does not refuse."""
    while True:
        try:
            await ledger.ready()
            if broker.refusal:
                raise Refused(broker.refusal)
        except SmsimError as error:  # unhealthy for as long as that lasts, and no longer
            log.warning("heartbeat_failed", extra={"reason": str(error)})
        else:
            beat(BEAT_EVERY_S)
        await asyncio.sleep(BEAT_EVERY_S)
