-- due: message ids whose time for a look has come, by Redis's own clock.
-- KEYS: 1 the sorted set of looks
-- ARGV: 1 how many at most
local t = redis.call('TIME')
local now = string.format('%.0f', t[1] * 1000000 + t[2])
return redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'LIMIT', 0, ARGV[1])
