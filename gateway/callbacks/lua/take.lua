-- take: leases callbacks; the same token may take again what it holds, so that a repeated call gives the same.
-- KEYS: 1 the sorted set of looks, then the hash of each callback
-- ARGV: 1 token, 2 us that a lease lasts, then the message ids
-- Returns, of each: number, URL, age in us, tries, ending; or nothing where it is not owed, or in another's hands
local t = redis.call('TIME')
local now = t[1] * 1000000 + t[2]
local until_us = string.format('%.0f', now + ARGV[2])
local answers = {}
for k = 2, #KEYS do
  local kept = redis.call('HMGET', KEYS[k], 'number', 'url', 'owed_us', 'tries', 'ending', 'lease', 'lease_until_us')
  local answer = {}
  if not kept[1] then
    redis.call('ZREM', KEYS[1], ARGV[k + 1])
  elseif tonumber(kept[7] or 0) <= now or kept[6] == ARGV[1] then
    redis.call('HSET', KEYS[k], 'lease', ARGV[1], 'lease_until_us', until_us)
    redis.call('ZADD', KEYS[1], until_us, ARGV[k + 1])
    answer = {kept[1], kept[2], string.format('%.0f', now - kept[3]), kept[4], kept[5] or ''}
  end
  answers[k - 1] = answer
end
return answers
