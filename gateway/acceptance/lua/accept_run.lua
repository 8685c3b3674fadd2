-- accept_run(run): accepts a run whole, with its key.
-- KEYS: 8 the run's texts, 9 the idempotency key
-- ARGV: 1 to 7 as for accept, 8 run, 9 recipe, 10 holder, 11 lane, 12 '1' if tracked, 13 messages, 14 the key's
--       fingerprint or '' for no key, 15 chunks of texts, 16 number n of the next values: n records if it is tracked,
--       else n of (chunk, texts) in turn, none where they are staged; then for each with a callback three: its seq,
--       number, URL
-- Returns {'accepted'}; {'unstaged'}: the texts are not all there; or why not, and the id that the key is bound to.
if redis.call('EXISTS', OUTBOX) == 1 then return {'accepted'} end  -- by an earlier try
local TEXTS, KEY = KEYS[8], KEYS[9]
local run, tracked, messages, n = ARGV[8], ARGV[12] == '1', tonumber(ARGV[13]), tonumber(ARGV[16])

local function refused(...)
  redis.call('DEL', TEXTS)
  return {...}
end

-- The bytes that the run takes in the outbox.
local function size()
  local bytes = tracked and messages * RECORD_BYTES or 0
  for k = 17, 16 + n do bytes = bytes + #ARGV[k] end
  if tracked or n > 0 then return bytes end
  for _, chunk in ipairs(redis.call('HKEYS', TEXTS)) do bytes = bytes + redis.call('HSTRLEN', TEXTS, chunk) end
  return bytes
end

if ARGV[14] ~= '' and redis.call('EXISTS', KEY) == 1 then return refused(bind(KEY, ARGV[14], run, ARGV[3])) end
local bytes = size()
if is_full(messages, bytes, ARGV[1], ARGV[2]) then return refused('full', '') end

if tracked then
  for k = 0, n - 1 do redis.call('RPUSH', string.format('%s%s.%d', MESSAGE_KEY, run, k), ARGV[17 + k]) end
else
  for k = 17, 16 + n, 2 do redis.call('HSET', TEXTS, ARGV[k], ARGV[k + 1]) end
  if redis.call('HLEN', TEXTS) ~= tonumber(ARGV[15]) then return refused('unstaged', '') end
  redis.call('PERSIST', TEXTS)
end
if ARGV[14] ~= '' then bind(KEY, ARGV[14], run, ARGV[3]) end
for a = 17 + n, #ARGV, 3 do
  register_callback(string.format('%s.%d', run, ARGV[a]), ARGV[a + 1], ARGV[a + 2], ARGV[4], ARGV[5])
end
open_outbox(run, ARGV[9], messages, ARGV[10], ARGV[11], ARGV[12])
redis.call('HSET', OUTBOX, 'closed', 1)
fill(0, messages, bytes, ARGV[6])
lease_for(LEASES, run, ARGV[7])
return {'accepted'}
