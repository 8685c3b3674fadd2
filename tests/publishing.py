"""Publishing a run in a test."""

from collections.abc import Coroutine
from typing import Any

from common.broker.port import Broker
from common.ledger.port import Publications
from common.messages import Lane
from common.publishing.recipes import Stream
from common.publishing.run import Job, RunPublisher


def publish(
    broker: Broker,
    ledger: Publications,
    run: str,
    source: Stream,
    batch_size: int,
    *,
    lane: Lane = Lane.BULK,
    first: int = 0,
    **more: Any,
) -> Coroutine[Any, Any, None]:
    """Publishes a source as a run; `more` is for the RunPublisher."""
    job = Job(run=run, source=source, batch_size=batch_size, lane=lane, first=first)
    return RunPublisher(broker, ledger, job, **more).publish()
