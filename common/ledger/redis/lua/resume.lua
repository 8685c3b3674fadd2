-- resume(run): hands a run to another producer.
-- KEYS: 1 the run's hash        ARGV: 1 producer, 2 silence in microseconds after which a producer counts as gone
-- Returns {}: no such run; {producer}: that producer is alive; {recipe, total, announced, confirmed}: done.
if redis.call('EXISTS', KEYS[1]) == 0 then return {} end
local r = redis.call('HMGET', KEYS[1], 'producer', 'producer_seen_us', 'recipe', 'total', 'announced', 'confirmed')
local now, total, confirmed = now_us(), tonumber(r[4] or 0), tonumber(r[6] or 0)
local alive = r[2] and now - r[2] < tonumber(ARGV[2]) and (total == 0 or confirmed < total)
if r[1] and r[1] ~= ARGV[1] and alive then return {r[1]} end
redis.call('HSET', KEYS[1], 'producer', ARGV[1], 'producer_seen_us', now)
if not is_over(KEYS[1]) then list_as_open(KEYS[1]) end  -- it may not have been begun
return {r[3] or '', total, tonumber(r[5] or 0), confirmed}
