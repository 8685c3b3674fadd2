-- reschedule(changes): stores changes and ends the leases. Skips a callback that this token does not hold.
-- KEYS: 1 the schedule, then the hash of each callback
-- ARGV: for each callback: message id, token, delay in us, failures, final status
local t = redis.call('TIME')
local now = t[1] * 1000000 + t[2]
for k = 2, #KEYS do
  local at = 5 * k - 9
  if redis.call('HGET', KEYS[k], 'lease') == ARGV[at + 1] then
    redis.call('HDEL', KEYS[k], 'lease')
    redis.call('HSET', KEYS[k], 'failures', ARGV[at + 3], 'final', ARGV[at + 4])
    redis.call('ZADD', KEYS[1], string.format('%.0f', now + ARGV[at + 2]), ARGV[at])
  end
end
return 0
