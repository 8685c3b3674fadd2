-- forget(run): removes the keys of a run that is over, and leaves a mark.
-- KEYS: 1 the run's hash, 2 sms:runs, 3 the mark of a forgotten run
-- ARGV: 1 run, 2 seconds that the mark is kept, 3 a token of this call: a repeat of it has the same one
-- Returns {}: done, now or by an earlier attempt; {-1}: no such run; {published, settled, total}: it is not over; {-2}: no
-- producer began it, so more messages may come.
if redis.call('EXISTS', KEYS[1]) == 0 then
  if redis.call('GET', KEYS[3]) == ARGV[3] then return {} end
  return {-1}
end
if redis.call('HEXISTS', KEYS[1], 'producer') == 0 then return {-2} end
local r = redis.call('HMGET', KEYS[1], 'published', 'sent', 'failed', 'total')
local published, settled, total = tonumber(r[1] or 0), (r[2] or 0) + (r[3] or 0), tonumber(r[4] or 0)
if published > settled or total > published then return {published, settled, total} end
for _, key in ipairs(keys_of(KEYS[1])) do redis.call('UNLINK', key) end
redis.call('ZREM', KEYS[2], ARGV[1])
list_as_over(KEYS[1])
redis.call('SET', KEYS[3], ARGV[3], 'EX', ARGV[2])
return {}
