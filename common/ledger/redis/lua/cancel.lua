-- cancel(run, seqs of one piece): queued -> failed, with a mark of those that are canceled.
-- KEYS: 1 sms:stats, 2 the run's hash, 3 sms:runs, 4 the piece's states, 5 the run's pieces, 6 the piece's unannounced,
--       7 the piece's canceled: as states, the low bit of a pair is the mark
-- ARGV: as for claim, but 5 is the seconds that a settled run is kept
-- Returns the marks of each segment, those of this call and of earlier ones. Nothing is canceled of a forgotten run. No
-- run wakes by it: what it publishes it settles.
if not open_run(KEYS[1], KEYS[2], KEYS[3], ARGV[1]) then return none_of(7) end

local announced, wanted = room_to_come(KEYS[2], ARGV[3], ARGV[6])
local count_unannounced = tonumber(ARGV[4]) >= announced
local canceled, published, answer = 0, 0, {}
local sparse, sparse_marks = is_sparse(KEYS[4], wanted), is_sparse(KEYS[7], wanted)
for a = 7, #ARGV, 3 do
  local first_word, packed = tonumber(ARGV[a]), ARGV[a + 2]
  local words, mask = words_of(read_words(KEYS[4], first_word, #packed, sparse)), words_of(packed)
  local marks, fresh = words_of(read_words(KEYS[7], first_word, #packed, sparse_marks)), 0
  for i = 1, #mask do
    local free = band(bnot(bor(words[i], rshift(words[i], 1))), mask[i])
    fresh = fresh + popcount(free)
    words[i] = bor(words[i], free * 3)
    marks[i] = bor(marks[i], free)
  end
  if fresh > 0 then
    write_words(KEYS[4], first_word, words, wanted, sparse)
    write_words(KEYS[7], first_word, marks, wanted, sparse_marks)
    canceled = canceled + fresh
    if count_unannounced then
      published = published + publish_unannounced(KEYS[6], tonumber(ARGV[3]), announced, first_word, mask)
    end
  end
  answer[#answer + 1] = string_of(marks)
end
if canceled == 0 then return answer end

redis.call('SADD', KEYS[5], ARGV[2])
local now = now_us()
for _, key in ipairs({KEYS[1], KEYS[2]}) do
  add(key, 'published', published)
  add(key, 'failed', canceled)
  add(key, 'canceled', canceled)
  redis.call('HSET', key, 'last_settled_us', now)
end
expire_if_settled(KEYS[2], ARGV[5])
return answer
