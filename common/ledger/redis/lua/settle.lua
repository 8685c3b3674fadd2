-- settle(run, outcomes of one piece): states and counters change together, or not at all.
-- KEYS: 1 sms:stats, 2 the run's hash, 3 the piece's states, 4 sms:latency, 5 the run's latency, 6 the sender's hash
-- ARGV: 1 ambiguous, 2 sent, 3 failed, 4 retried, 5 total time in microseconds, 6 seconds that a settled run is kept,
--       7 '1' to count for the sender, 8 number n of histogram buckets, then n times: bucket, count;
--       then for each segment: its first word and two strings of words:
--       mask (the low bit of each pair to settle), change (what to xor `sending` with)
-- Settles only if all messages are sending, so that the counters are right. Returns '' if it has settled them, else the
-- words of each segment: the caller selects what can be settled and repeats. Of a forgotten run, all are sent.
local first_segment = 9 + 2 * ARGV[8]
local result, all_sending, was = {}, true, {}
local sparse = is_sparse(KEYS[3], 1)
for a = first_segment, #ARGV, 3 do
  local now = read_words(KEYS[3], tonumber(ARGV[a]), #ARGV[a + 1], sparse)
  local old, mask, change = words_of(now), words_of(ARGV[a + 1]), words_of(ARGV[a + 2])
  for i = 1, #mask do
    local o, m = old[i], mask[i]
    if band(o, m * 3) ~= m then all_sending = false end
    old[i] = bxor(o, change[i])
  end
  was[#was + 1] = now
  result[#result + 1] = old
end
if not all_sending then
  if is_forgotten(KEYS[2]) then
    for i = 1, #was do was[i] = all_sent(was[i]) end
  end
  return was
end

for i, words in ipairs(result) do
  put_words(KEYS[3], tonumber(ARGV[first_segment + 3 * (i - 1)]), string_of(words), sparse)
end
local now = now_us()
local function count(key)
  add(key, 'sent', tonumber(ARGV[2]))
  add(key, 'failed', tonumber(ARGV[3]))
  add(key, 'retried', tonumber(ARGV[4]))
  add(key, 'total_time_us', tonumber(ARGV[5]))
end
for _, key in ipairs({KEYS[1], KEYS[2]}) do
  count(key)
  add(key, 'sending', -(ARGV[2] + ARGV[3] + ARGV[4]))
  add(key, 'ambiguous', tonumber(ARGV[1]))
  redis.call('HSET', key, 'last_settled_us', now)
end
if ARGV[7] == '1' then count(KEYS[6]) end
for a = 9, first_segment - 1, 2 do
  redis.call('HINCRBY', KEYS[4], ARGV[a], ARGV[a + 1])
  redis.call('HINCRBY', KEYS[5], ARGV[a], ARGV[a + 1])
end
expire_if_settled(KEYS[2], ARGV[6])
return ''
