-- release(run): gives the lease up.
-- KEYS: 1 the run's outbox, 2 the leases        ARGV: 1 run, 2 fencing token
if redis.call('HGET', KEYS[1], 'fence') == ARGV[2] then redis.call('ZADD', KEYS[2], 'XX', 0, ARGV[1]) end
return 1
