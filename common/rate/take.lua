-- take: tokens from the bucket that all senders share; MemoryRateLimit does the same in memory.
-- KEYS: 1 the limit's hash: tokens, at_us (when they were counted), owed (what urgent takers wait for),
--   owed_until_us (until when bulk takers leave it to them)
-- ARGV: 1 messages/s, 2 wanted, 3 1 if urgent, 4 tokens that the bucket holds, 5 tokens worth waiting for,
--   6 longest wait in us, 7 patience with an urgent taker in us
-- Returns granted, and how long to wait for a part of the rest, in us.
local t = redis.call('TIME')
local now = t[1] * 1000000 + t[2]
local rate, wanted, urgent = tonumber(ARGV[1]) / 1000000, tonumber(ARGV[2]), ARGV[3] == '1'
local size, part, longest, patience = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7])

local was = redis.call('HMGET', KEYS[1], 'tokens', 'at_us', 'owed', 'owed_until_us')
local tokens, at = tonumber(was[1] or 1), tonumber(was[2] or now)
local owed, owed_until = tonumber(was[3] or 0), tonumber(was[4] or now)
tokens = math.min(size, tokens + math.max(0, now - at) * rate)
owed_until = math.min(owed_until, now + longest + patience)
if now >= owed_until then owed = 0 end

local ahead = urgent and 0 or owed
local granted = math.max(0, math.min(wanted, math.floor(tokens - ahead)))
tokens = tokens - granted
local rest = wanted - granted
local lacking = (math.min(rest, part) - tokens) / rate
if urgent then
  owed = math.max(rest, owed - granted)
  if rest > 0 then owed_until = math.max(owed_until, now + math.min(lacking, longest) + patience) end
end

redis.call('HSET', KEYS[1], 'tokens', string.format('%.17g', tokens), 'at_us', string.format('%.0f', now),
  'owed', string.format('%.0f', owed), 'owed_until_us', string.format('%.0f', owed_until))
-- A new bucket begins with one token: it must not come sooner than this one would have had it.
redis.call('PEXPIRE', KEYS[1], string.format('%.0f', math.min(1e12, 60000 + size / rate / 1000)))

local wait = math.min(lacking + ahead / rate, math.max(lacking, owed_until - now))
return {granted, math.ceil(math.max(0, math.min(wait, longest)))}
