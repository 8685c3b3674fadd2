-- release(run): gives the lease up.
-- ARGV: 1 run, 2 fencing token
if redis.call('HGET', OUTBOX, 'fence') == ARGV[2] then redis.call('ZADD', LEASES, 'XX', 0, ARGV[1]) end
return 1
