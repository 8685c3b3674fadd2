-- put_off: gives back what was taken, until some time from now; what is not held by this token any more stays.
-- KEYS: 1 the sorted set of looks, then the hash of each callback
-- ARGV: of each callback: message id, token, us until the next look, tries, ending
local t = redis.call('TIME')
local now = t[1] * 1000000 + t[2]
for k = 2, #KEYS do
  local at = 5 * k - 9
  if redis.call('HGET', KEYS[k], 'lease') == ARGV[at + 1] then
    redis.call('HDEL', KEYS[k], 'lease', 'lease_until_us')
    redis.call('HSET', KEYS[k], 'tries', ARGV[at + 3], 'ending', ARGV[at + 4])
    redis.call('ZADD', KEYS[1], string.format('%.0f', now + ARGV[at + 2]), ARGV[at])
  end
end
return 0
