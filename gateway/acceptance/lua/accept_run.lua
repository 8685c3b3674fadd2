-- accept_run(run): accepts a run whole, with its key.
-- KEYS: 1 sms:stats, 2 the run's hash, 3 sms:runs, 4 the run's outbox, 5 sms:outbox, 6 the leases, 7 sms:callbacks,
--       8 the run's texts, 9 the idempotency key
-- ARGV: 1 run, 2 recipe, 3 holder, 4 lane, 5 '1' if tracked, 6 messages, 7 fingerprint or '' for no key, 8 us that a lease
--       lasts, 9 most messages, 10 most bytes, 11 seconds that a key is kept, 12 us until a callback is first checked,
--       13 ms that a callback lives, 14 messages a piece, 15 chunks of texts, 16 number n of what follows; then n records if
--       it is tracked, else n chunks of its texts as (chunk, texts) in turn, none where they are staged;
--       then for each with a callback three: its seq, number, URL
-- Returns 'accepted'; 'unstaged': the texts are not all there; or why not, and the id that the key is bound to.
if redis.call('EXISTS', KEYS[4]) == 1 then return {'accepted'} end  -- by an earlier try
local run, messages, n = ARGV[1], tonumber(ARGV[6]), tonumber(ARGV[16])
local function refused(...)
  redis.call('DEL', KEYS[8])
  return {...}
end

if ARGV[7] ~= '' and redis.call('EXISTS', KEYS[9]) == 1 then
  return refused(bind(KEYS[9], ARGV[7], run, ARGV[11]))
end
local bytes = 0
for k = 17, 16 + n do bytes = bytes + #ARGV[k] + (ARGV[5] == '1' and RECORD_BYTES or 0) end
if ARGV[5] ~= '1' and n == 0 then
  for _, chunk in ipairs(redis.call('HKEYS', KEYS[8])) do bytes = bytes + redis.call('HSTRLEN', KEYS[8], chunk) end
end
local total = redis.call('HMGET', KEYS[5], 'messages', 'bytes')
if (total[1] or 0) + messages > tonumber(ARGV[9]) or (total[2] or 0) + bytes > tonumber(ARGV[10]) then
  return refused('full', '')
end

if ARGV[5] == '1' then
  for k = 0, n - 1 do redis.call('RPUSH', string.format('%s%s.%d', MESSAGE_KEY, run, k), ARGV[17 + k]) end
else
  for k = 17, 16 + n, 2 do redis.call('HSET', KEYS[8], ARGV[k], ARGV[k + 1]) end
  if redis.call('HLEN', KEYS[8]) ~= tonumber(ARGV[15]) then return refused('unstaged', '') end
  redis.call('PERSIST', KEYS[8])
end
if ARGV[7] ~= '' then bind(KEYS[9], ARGV[7], run, ARGV[11]) end
for a = 17 + n, #ARGV, 3 do
  register_callback(KEYS[7], string.format('%s.%d', run, ARGV[a]), ARGV[a + 1], ARGV[a + 2], ARGV[12], ARGV[13])
end
enter_run(KEYS[1], KEYS[2], KEYS[3], run)
redis.call('HSET', KEYS[2], 'recipe', ARGV[2], 'total', messages, 'producer', ARGV[3], 'producer_seen_us', now_us(),
  'announced', 0, 'confirmed', 0)
redis.call('HSET', KEYS[4], 'fence', 1, 'holder', ARGV[3], 'lane', ARGV[4], 'track', ARGV[5], 'accepted', 0,
  'relayed', 0, 'call', 0, 'closed', 1)
fill(KEYS[4], KEYS[5], messages, messages, bytes)
announce_upto(KEYS[1], KEYS[2], 0, messages, tonumber(ARGV[14]))
lease_for(KEYS[6], run, ARGV[8])
return {'accepted'}
