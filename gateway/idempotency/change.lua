-- KEYS: the entry. ARGV: token, what to do (plan, done, void, pass_on, release), answer, time to keep in milliseconds,
-- lease in milliseconds. Gives 1 if the entry is still its holder's, else 0.
-- Only its holder changes an entry; doing so again changes nothing.
local entry = redis.call('HMGET', KEYS[1], 'token', 'done')
if entry[1] ~= ARGV[1] or entry[2] then
    return 0
end
if ARGV[2] == 'release' then
    redis.call('DEL', KEYS[1])
    return 1
end
if ARGV[2] == 'pass_on' then
    redis.call('HSET', KEYS[1], 'until_ms', 0)
    return 1
end
if ARGV[2] == 'void' then
    local time = redis.call('TIME')
    local now = time[1] * 1000 + math.floor(time[2] / 1000)
    redis.call('HSET', KEYS[1], 'void', 1, 'until_ms', now + ARGV[5])
    return 1
end
redis.call('HSET', KEYS[1], 'answer', ARGV[3])
redis.call('HDEL', KEYS[1], 'void')
if ARGV[2] == 'done' then
    redis.call('HSET', KEYS[1], 'done', 1)
    redis.call('PEXPIRE', KEYS[1], ARGV[4])
end
return 1
