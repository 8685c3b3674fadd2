-- runs(): the names of the runs, oldest first; those that have expired are taken off the list.
-- KEYS: 1 sms:runs        ARGV: 1 what a run's hash is called before its name
local alive = {}
for _, name in ipairs(redis.call('ZRANGE', KEYS[1], 0, -1)) do
  if redis.call('EXISTS', ARGV[1] .. name) == 1 then
    alive[#alive + 1] = name
  else
    redis.call('ZREM', KEYS[1], name)
  end
end
return alive
