-- withdraw(run, seqs of one piece): queued -> failed, and tells what each message was before.
-- KEYS: 1 sms:stats, 2 the run's hash, 3 sms:runs, 4 the piece's states, 5 the run's pieces, 6 the piece's unannounced,
--       7 sms:latency, 8 the run's latency
-- ARGV: as for claim, but 5 is the seconds that a settled run lives on
-- Returns what claim does. No run wakes by it: what it publishes it settles.
if not open_run(KEYS[1], KEYS[2], KEYS[3], ARGV[1]) then return all_sent_of(7) end

local announced, wanted = room_to_come(KEYS[2], ARGV[3], ARGV[6])
local count_unannounced = tonumber(ARGV[4]) >= announced
local failed, published, answer = 0, 0, {}
for a = 7, #ARGV, 3 do
  local first_word, messages, packed = tonumber(ARGV[a]), tonumber(ARGV[a + 1]), ARGV[a + 2]
  local was = read_words(KEYS[4], first_word, #packed)
  local words, mask, overlap = words_of(was), words_of(packed), false
  for i = 1, #mask do
    local free = band(bnot(bor(words[i], rshift(words[i], 1))), mask[i])
    if free ~= mask[i] then
      overlap = true
      messages = messages - popcount(bxor(mask[i], free))
    end
    words[i] = bor(words[i], free * 3)
  end
  if messages > 0 then write_words(KEYS[4], first_word, words, wanted) end
  if count_unannounced then
    published = published + publish_unannounced(KEYS[6], tonumber(ARGV[3]), announced, first_word, mask)
  end
  failed = failed + messages
  answer[#answer + 1] = overlap and was or ''
end
if failed == 0 then return answer end

redis.call('SADD', KEYS[5], ARGV[2])
local now = now_us()
for _, key in ipairs({KEYS[1], KEYS[2]}) do
  add(key, 'published', published)
  add(key, 'failed', failed)
  redis.call('HSET', key, 'last_settled_us', now)
end
-- The histogram has each settled message; that of one that nobody sent took no time.
for _, key in ipairs({KEYS[7], KEYS[8]}) do redis.call('HINCRBY', key, 0, failed) end
expire_if_settled(KEYS[2], ARGV[5])
return answer
