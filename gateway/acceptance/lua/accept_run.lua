-- accept_run(run): accepts a run whole, with its key.
-- KEYS: 9 the run's texts, 10 the idempotency key
-- ARGV: 1 to 9 as for accept, 10 run, 11 recipe, 12 holder, 13 lane, 14 '1' if tracked, 15 messages, 16 the key's
--       fingerprint or '' for no key, 17 number n of the next values: n records if it is tracked, else n of (chunk,
--       texts) in turn, none where they are staged; then for each with a callback three: its seq, number, URL
-- Returns {'accepted'}; {'unstaged'}: the texts are not all there; or why not, and the id that the key is bound to.
if redis.call('EXISTS', OUTBOX) == 1 then return {'accepted'} end  -- by an earlier try
local TEXTS, KEY = KEYS[9], KEYS[10]
local run, tracked, messages, n = ARGV[10], ARGV[14] == '1', tonumber(ARGV[15]), tonumber(ARGV[17])
local fingerprint, chunks = ARGV[16], math.ceil(messages / CHUNK_MESSAGES)

local function refused(...)
  redis.call('DEL', TEXTS)
  return {...}
end

-- The bytes of each group in the outbox, the first of which has the key; and of all of them.
local function sizes()
  local found, all = {}, 0
  local function count(seq, bytes)
    local group = math.floor(seq / GROUP_MESSAGES)
    found[group], all = (found[group] or 0) + bytes, all + bytes
  end
  if fingerprint ~= '' then count(0, size_of_key(KEY)) end
  for a = 18 + n, #ARGV, 3 do count(ARGV[a], size_of_callback(ARGV[a + 2])) end
  if tracked then
    for k = 0, n - 1 do count(k, #ARGV[18 + k] + RECORD_BYTES) end
  elseif n > 0 then
    for k = 18, 17 + n, 2 do count(ARGV[k] * CHUNK_MESSAGES, size_of_chunk(#ARGV[k + 1])) end
  else
    for chunk = 0, chunks - 1 do
      count(chunk * CHUNK_MESSAGES, size_of_chunk(redis.call('HSTRLEN', TEXTS, string.format('%d', chunk))))
    end
  end
  return found, all
end

trim(ARGV[3])
if fingerprint ~= '' and redis.call('EXISTS', KEY) == 1 then return refused(bind(KEY, fingerprint, run, ARGV[5])) end
local groups, bytes = sizes()
if is_full(messages, bytes, ARGV[1], ARGV[2]) then
  local is_too_large = messages > tonumber(ARGV[1]) or bytes > tonumber(ARGV[2])
  return refused(is_too_large and 'too large' or 'full', '')
end

if tracked then
  for k = 0, n - 1 do redis.call('RPUSH', string.format('%s%s.%d', MESSAGE_KEY, run, k), ARGV[18 + k]) end
else
  for k = 18, 17 + n, 2 do redis.call('HSET', TEXTS, ARGV[k], ARGV[k + 1]) end
  if redis.call('HLEN', TEXTS) ~= chunks then return refused('unstaged', '') end
  redis.call('PERSIST', TEXTS)
end
if fingerprint ~= '' then bind(KEY, fingerprint, run, ARGV[5]) end
for a = 18 + n, #ARGV, 3 do
  register_callback(string.format('%s.%d', run, ARGV[a]), ARGV[a + 1], ARGV[a + 2], ARGV[6], ARGV[7])
end
open_outbox(run, ARGV[11], messages, ARGV[12], ARGV[13], ARGV[14])
redis.call('HSET', OUTBOX, 'closed', 1)
local kind = not tracked and 'texts' or 18 + n <= #ARGV and 'callbacks' or 'records'
for group = 0, #groups do
  local first = group * GROUP_MESSAGES
  local bound = group == 0 and fingerprint ~= '' and {KEY} or {}
  add_group(first, math.min(first + GROUP_MESSAGES, messages), groups[group], kind, bound)
end
fill(0, messages, bytes, ARGV[8])
lease_for(LEASES, run, ARGV[9])
return {'accepted'}
