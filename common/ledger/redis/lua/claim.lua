-- claim(run, seqs of one piece): queued -> sending, and answers the state of each message before.
-- KEYS: 1 sms:stats, 2 the run's hash, 3 sms:runs, 4 the piece's states, 5 the run's pieces, 6 the piece's unannounced
-- ARGV: 1 run, 2 piece, 3 the piece's first seq, 4 highest seq of the call, 5 '1' if redelivered, 6 messages a piece,
--       then for each segment: its first word, its messages, its mask (the low bit of each pair to claim)
-- Returns the microseconds since the run began, then for each segment '' if all its messages were queued, else the words
-- of states as they were; of a forgotten run 0, then all of them sent.
if not open_run(KEYS[1], KEYS[2], KEYS[3], ARGV[1]) then return {0, unpack(all_sent_of(7))} end
local announced, wanted = room_to_come(KEYS[2], ARGV[3], ARGV[6])
local sparse, new_piece = is_sparse(KEYS[4], wanted)
if new_piece then redis.call('SADD', KEYS[5], ARGV[2]) end
local count_unannounced = tonumber(ARGV[4]) >= announced
local new, ambiguous, published = 0, 0, 0
local answer = {math.max(0, now_us() - redis.call('HGET', KEYS[2], 'started_us'))}

for a = 7, #ARGV, 3 do
  local first_word, messages, packed = tonumber(ARGV[a]), tonumber(ARGV[a + 1]), ARGV[a + 2]
  local was = read_words(KEYS[4], first_word, #packed, sparse)
  local old, mask, overlap = words_of(was), words_of(packed), false
  for i = 1, #mask do
    local o, m = old[i], mask[i]
    if band(o, m * 3) == 0 then
      old[i] = bor(o, m)
    else
      overlap = true
      local free = band(bnot(bor(o, rshift(o, 1))), m)
      messages = messages - popcount(m) + popcount(free)
      ambiguous = ambiguous + popcount(band(o, bnot(rshift(o, 1)), m))
      old[i] = bor(o, free)
    end
  end
  if messages > 0 then write_words(KEYS[4], first_word, old, wanted, sparse) end
  if count_unannounced then
    published = published + publish_unannounced(KEYS[6], tonumber(ARGV[3]), announced, first_word, mask)
  end
  new = new + messages
  answer[#answer + 1] = overlap and was or ''
end

if new > 0 or published > 0 then wake(KEYS[2]) end
for _, key in ipairs({KEYS[1], KEYS[2]}) do
  add(key, 'published', published)
  add(key, 'sending', new)
  if ARGV[5] == '1' then add(key, 'ambiguous', ambiguous) end
end
return answer
