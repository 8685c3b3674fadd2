-- newest(n): the names of the newest runs, newest first; removes those that have expired.
-- KEYS: 1 sms:runs        ARGV: 1 how many names
-- Returns the names, and how many had expired.
local alive, expired = {}, 0
for _, name in ipairs(redis.call('ZREVRANGEBYSCORE', KEYS[1], '+inf', '-inf', 'LIMIT', 0, ARGV[1])) do
  if redis.call('EXISTS', RUN_KEY .. name) == 1 then
    alive[#alive + 1] = name
  else
    redis.call('ZREM', KEYS[1], name)
    expired = expired + 1
  end
end
return {alive, expired}
