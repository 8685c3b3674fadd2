-- KEYS: the entry. ARGV: fingerprint, token, lease and time to keep in milliseconds.
-- The lease is a field, by Redis's clock: the entry itself outlives it, so that a plan can be carried out.
local entry = redis.call('HMGET', KEYS[1], 'fingerprint', 'token', 'until_ms', 'done', 'answer', 'void')
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local function take()
    redis.call('HSET', KEYS[1], 'fingerprint', ARGV[1], 'token', ARGV[2], 'until_ms', now + ARGV[3])
    redis.call('PEXPIRE', KEYS[1], ARGV[4])
end
if not entry[1] then
    take()
    return {'new', ''}
elseif entry[1] ~= ARGV[1] then
    return {'other', ''}
elseif entry[4] then
    return {'done', entry[5]}
elseif entry[2] == ARGV[2] then
    return {'new', ''}
elseif tonumber(entry[3]) > now then
    return {'busy', ''}
end
take()
return {entry[5] and entry[6] and 'void' or 'planned', entry[5] or ''}
