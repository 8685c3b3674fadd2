-- accept(run, group): gives the group its seqs, keeps its records, binds its keys and registers its callbacks.
-- ARGV: 1 most messages, 2 most bytes, 3 most bytes kept for show, 4 seconds that a message is kept, 5 seconds that a key
--       is kept, 6 us until a callback is first checked, 7 ms that a callback lives, 8 messages a piece, 9 us that a
--       lease lasts, 10 run, 11 fencing token, 12 number of the call, 13 relayed, 14 number n of records, then n records;
--       then for each that has a key or a callback five: its position from 0, the key or '', the fingerprint, the number,
--       the URL or ''
-- Returns {}: the lease is another's, or the run is closed or gone; else {first seq, then for each that was not accepted
-- as a new message three: its position, why not, the id that its key is bound to}.
local run, fence, call, n = ARGV[10], ARGV[11], tonumber(ARGV[12]), tonumber(ARGV[14])
local o = redis.call('HMGET', OUTBOX, 'fence', 'call', 'call_fence', 'answer', 'closed')
local last = tonumber(o[2] or -1)
if o[3] == fence and last == call then return cmsgpack.unpack(o[4]) end
local r = redis.call('HMGET', RUN_HASH, 'announced', 'cut')
if o[1] ~= fence or o[5] or last ~= call - 1 or not r[1] or r[2] then return {} end

trim(ARGV[3])
local relayed, first = drain(run, tonumber(ARGV[13]), ARGV[4], ARGV[5])
local extras, sizes, all_bytes = {}, {}, 0
for k = 0, n - 1 do sizes[k] = #ARGV[15 + k] + RECORD_BYTES end
for a = 15 + n, #ARGV, 5 do
  local k = tonumber(ARGV[a])
  extras[k] = a
  sizes[k] = sizes[k] + size_of_key(ARGV[a + 1]) + size_of_callback(ARGV[a + 4])
end
for k = 0, n - 1 do all_bytes = all_bytes + sizes[k] end
local fits = not is_full(n, all_bytes, ARGV[1], ARGV[2])  -- all of them, so that none is counted by itself
local answer, seq, bytes, kind, bound = {first}, first, 0, 'records', {}

-- Why a message is not accepted as a new one, if it is not; and the id that its key is bound to.
local function refusal(a, uuid, size)
  local key, full = a and ARGV[a + 1] or '', not fits and is_full(seq - first + 1, bytes + size, ARGV[1], ARGV[2])
  if key ~= '' and (not full or redis.call('EXISTS', key) == 1) then return bind(key, ARGV[a + 2], uuid, ARGV[5]) end
  if full then return 'full', '' end
end

for k = 0, n - 1 do
  local uuid, a = string.format('%s.%d', run, seq), extras[k]
  local why, id = refusal(a, uuid, sizes[k])
  if why then
    for _, said in ipairs({k, why, id}) do answer[#answer + 1] = said end
  else
    redis.call('RPUSH', MESSAGE_KEY .. uuid, ARGV[15 + k])
    if a and ARGV[a + 1] ~= '' then bound[#bound + 1] = ARGV[a + 1] end
    if a and ARGV[a + 4] ~= '' then
      register_callback(uuid, ARGV[a + 3], ARGV[a + 4], ARGV[6], ARGV[7])
      kind = 'callbacks'
    end
    seq, bytes = seq + 1, bytes + sizes[k]
  end
end
if seq > first then
  add_group(first, seq, bytes, kind, bound)
  fill(first, seq, bytes, ARGV[8])
end
note_relayed(relayed)
redis.call('HSET', OUTBOX, 'call', call, 'call_fence', fence, 'answer', cmsgpack.pack(answer))
lease_for(LEASES, run, ARGV[9])
return answer
