-- due(limit): message ids of callbacks that are due by Redis's clock, the longest overdue first.
-- KEYS: 1 the schedule, a sorted set
-- ARGV: 1 limit
local t = redis.call('TIME')
local now = string.format('%.0f', t[1] * 1000000 + t[2])
return redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'LIMIT', 0, ARGV[1])
