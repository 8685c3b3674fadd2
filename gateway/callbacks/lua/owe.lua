-- owe: keeps callbacks; one that is owed already stays as it is.
-- KEYS: 1 the sorted set of looks, then the hash of each callback
-- ARGV: 1 us until the first look, 2 ms that a hash lives, then of each callback: message id, number, URL
local t = redis.call('TIME')
local now = t[1] * 1000000 + t[2]
for k = 2, #KEYS do
  if redis.call('EXISTS', KEYS[k]) == 0 then
    local at = 3 * k - 3
    redis.call('HSET', KEYS[k], 'number', ARGV[at + 1], 'url', ARGV[at + 2], 'owed_us', string.format('%.0f', now),
      'tries', 0)
    redis.call('PEXPIRE', KEYS[k], ARGV[2])
    redis.call('ZADD', KEYS[1], string.format('%.0f', now + ARGV[1]), ARGV[at])
  end
end
return 0
