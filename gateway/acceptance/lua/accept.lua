-- accept(run, group): gives the group its seqs, keeps its records, binds its keys and registers its callbacks.
-- ARGV: 1 most messages, 2 most bytes, 3 seconds that a key is kept, 4 us until a callback is first checked, 5 ms that a
--       callback lives, 6 messages a piece, 7 us that a lease lasts, 8 run, 9 fencing token, 10 number of the call,
--       11 relayed, 12 seconds that a message is kept, 13 number n of records, then n records; then for each that has a
--       key or a callback five: its position from 0, the key or '', the fingerprint, the number, the URL or ''
-- Returns {}: the lease is another's, or the run is closed or gone; else {first seq, then for each that was not accepted
-- as a new message three: its position, why not, the id that its key is bound to}.
local run, fence, call, n = ARGV[8], ARGV[9], tonumber(ARGV[10]), tonumber(ARGV[13])
local o = redis.call('HMGET', OUTBOX, 'fence', 'call', 'call_fence', 'answer', 'closed')
local last = tonumber(o[2] or -1)
if o[3] == fence and last == call then return cmsgpack.unpack(o[4]) end
local r = redis.call('HMGET', RUN_HASH, 'announced', 'cut')
if o[1] ~= fence or o[5] or last ~= call - 1 or not r[1] or r[2] then return {} end

local relayed, first = drain(run, tonumber(ARGV[11]), ARGV[12])
local extras, all_bytes = {}, 0
for k = 14, 13 + n do all_bytes = all_bytes + #ARGV[k] + RECORD_BYTES end
for a = 14 + n, #ARGV, 5 do extras[tonumber(ARGV[a])] = a end
local fits = not is_full(n, all_bytes, ARGV[1], ARGV[2])  -- all of them, so that none is counted by itself
local answer, seq, bytes = {first}, first, 0

-- Why a message is not accepted as a new one, if it is not; and the id that its key is bound to.
local function refusal(a, uuid, size)
  local key, full = a and ARGV[a + 1] or '', not fits and is_full(seq - first + 1, bytes + size, ARGV[1], ARGV[2])
  if key ~= '' and (not full or redis.call('EXISTS', key) == 1) then return bind(key, ARGV[a + 2], uuid, ARGV[3]) end
  if full then return 'full', '' end
end

for k = 0, n - 1 do
  local uuid, a, size = string.format('%s.%d', run, seq), extras[k], #ARGV[14 + k] + RECORD_BYTES
  local why, id = refusal(a, uuid, size)
  if why then
    for _, said in ipairs({k, why, id}) do answer[#answer + 1] = said end
  else
    redis.call('RPUSH', MESSAGE_KEY .. uuid, ARGV[14 + k])
    if a and ARGV[a + 4] ~= '' then register_callback(uuid, ARGV[a + 3], ARGV[a + 4], ARGV[4], ARGV[5]) end
    seq, bytes = seq + 1, bytes + size
  end
end
if seq > first then fill(first, seq, bytes, ARGV[6]) end
note_relayed(relayed)
redis.call('HSET', OUTBOX, 'call', call, 'call_fence', fence, 'answer', cmsgpack.pack(answer))
lease_for(LEASES, run, ARGV[7])
return answer
