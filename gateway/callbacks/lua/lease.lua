-- lease(token, lease_us, uuids): leases callbacks. A repeated call with the same token gives the same answer.
-- KEYS: 1 the schedule, then the hash of each callback
-- ARGV: 1 token, 2 length of the lease in us, then the message ids
-- Returns for each: number, URL, age in us, failures, final status; or {} if it is unknown or leased to another.
local t = redis.call('TIME')
local now = t[1] * 1000000 + t[2]
local answers = {}
for k = 2, #KEYS do
  local uuid, answer = ARGV[k + 1], {}
  local c = redis.call('HMGET', KEYS[k], 'number', 'url', 'registered_us', 'failures', 'final', 'lease')
  local due = tonumber(redis.call('ZSCORE', KEYS[1], uuid) or 0)  -- of a leased callback: when the lease ends
  if not c[1] then
    redis.call('ZREM', KEYS[1], uuid)
  elseif not c[6] or c[6] == ARGV[1] or due <= now then
    redis.call('HSET', KEYS[k], 'lease', ARGV[1])
    redis.call('ZADD', KEYS[1], string.format('%.0f', now + ARGV[2]), uuid)
    answer = {c[1], c[2], string.format('%.0f', now - c[3]), c[4], c[5] or ''}
  end
  answers[k - 1] = answer
end
return answers
