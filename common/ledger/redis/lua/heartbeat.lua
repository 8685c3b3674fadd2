-- heartbeat(sender): lists it. Hashes and names of senders expire after the time that a settled run is kept.
-- Returns when it was first listed.
-- KEYS: 1 sms:senders, 2 the sender's hash        ARGV: 1 sender, 2 slots, 3 in flight, 4 seconds to live
local now = now_us()
redis.call('ZADD', KEYS[1], now, ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', '(' .. string.format('%d', now - ARGV[4] * 1000000))
redis.call('HSET', KEYS[2], 'slots', ARGV[2], 'in_flight', ARGV[3], 'heartbeat_us', now)
redis.call('HSETNX', KEYS[2], 'began_us', now)
redis.call('EXPIRE', KEYS[2], ARGV[4])
return redis.call('HGET', KEYS[2], 'began_us')
