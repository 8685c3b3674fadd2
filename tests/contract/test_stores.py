"""common/stores.py: the one builder of the stores, in Redis and in memory."""

from common.ledger.memory import MemoryLedger
from common.ledger.redis import RedisLedger
from common.settings import Settings, load_settings
from common.stores import connect_stores, memory_stores
from tests.servers import RedisServer


async def test_the_stores_in_redis_follow_the_settings(redis_server: RedisServer) -> None:
    """RUN_TTL and PROVIDER_RATE reach the stores that keep to them; all share one client."""
    settings = load_settings(
        redis_host=redis_server.host, redis_port=redis_server.port, run_ttl=2, provider_rate=7
    )
    async with await connect_stores(settings, 10) as stores:
        assert isinstance(stores.ledger, RedisLedger)
        assert stores.ledger._ttl_s == 2 * 86_400
        assert stores.rate_limit is not None
        assert stores.rate_limit.rate == 7
        assert stores.ledger._redis is stores.client
        assert await stores.api_keys.all() == {}


async def test_without_a_rate_there_is_no_limit() -> None:
    """PROVIDER_RATE is unset by default: sends are not limited, in memory as in Redis."""
    async with memory_stores(Settings(_env_file=None)) as stores:
        assert stores.rate_limit is None
        assert stores.ledger is not None


async def test_the_stores_in_memory_take_the_callers_ledger() -> None:
    """A caller that looks at its ledger afterwards brings its own; an empty one counts too."""
    ledger = MemoryLedger()
    assert memory_stores(Settings(_env_file=None), ledger).ledger is ledger
