-- accept(run, group): gives the group its seqs, keeps its records, binds its keys and registers its callbacks.
-- KEYS: 1 sms:stats, 2 the run's hash, 3 the run's outbox, 4 sms:outbox, 5 the leases, 6 sms:callbacks
-- ARGV: 1 run, 2 fencing token, 3 number of the call, 4 relayed, 5 us that a lease lasts, 6 seconds that a message is
--       kept, 7 most messages, 8 most bytes, 9 seconds that a key is kept, 10 us until a callback is first checked,
--       11 ms that a callback lives, 12 messages a piece, 13 number n of records, then n records; then for each that has
--       a key or a callback five: its position from 0, the key or '', the fingerprint, the number, the URL or ''
-- Returns {}: the lease is another's, or the run is closed or gone; else {first seq, then for each that was not accepted
-- as a new message three: its position, why not, the id that its key is bound to}.
local run, fence, call = ARGV[1], ARGV[2], tonumber(ARGV[3])
local o = redis.call('HMGET', KEYS[3], 'fence', 'call', 'call_fence', 'answer', 'closed')
local last = tonumber(o[2] or -1)
if o[3] == fence and last == call then return cmsgpack.unpack(o[4]) end
local r = redis.call('HMGET', KEYS[2], 'announced', 'cut')
if o[1] ~= fence or o[5] or last ~= call - 1 or not r[1] or r[2] then return {} end

local _, first = drain(KEYS[3], KEYS[4], run, tonumber(ARGV[4]), ARGV[6])
local n, extras, records_bytes = tonumber(ARGV[13]), {}, 0
for k = 14, 13 + n do records_bytes = records_bytes + #ARGV[k] + RECORD_BYTES end
for a = 14 + n, #ARGV, 5 do extras[tonumber(ARGV[a])] = a end
local total = redis.call('HMGET', KEYS[4], 'messages', 'bytes')
local full = (total[1] or 0) + n > tonumber(ARGV[7]) or (total[2] or 0) + records_bytes > tonumber(ARGV[8])

local answer, seq, bytes = {first}, first, 0
for k = 0, n - 1 do
  local uuid, a, why, id = string.format('%s.%d', run, seq), extras[k], nil, ''
  if a and ARGV[a + 1] ~= '' then
    if full and redis.call('EXISTS', ARGV[a + 1]) == 0 then
      why = 'full'
    else
      why, id = bind(ARGV[a + 1], ARGV[a + 2], uuid, ARGV[9])
    end
  elseif full then
    why = 'full'
  end
  if why then
    for _, said in ipairs({k, why, id or ''}) do answer[#answer + 1] = said end
  else
    redis.call('RPUSH', MESSAGE_KEY .. uuid, ARGV[14 + k])
    if a and ARGV[a + 4] ~= '' then register_callback(KEYS[6], uuid, ARGV[a + 3], ARGV[a + 4], ARGV[10], ARGV[11]) end
    seq, bytes = seq + 1, bytes + #ARGV[14 + k] + RECORD_BYTES
  end
end
if seq > first then
  fill(KEYS[3], KEYS[4], seq, seq - first, bytes)
  announce_upto(KEYS[1], KEYS[2], first, seq, tonumber(ARGV[12]))
end
note_relayed(KEYS[2], tonumber(redis.call('HGET', KEYS[3], 'relayed')))
redis.call('HSET', KEYS[3], 'call', call, 'call_fence', fence, 'answer', cmsgpack.pack(answer))
lease_for(KEYS[5], run, ARGV[5])
return answer
