-- release(run, seqs of one piece): sending -> queued, for what was claimed and not begun.
-- KEYS: 1 sms:stats, 2 the run's hash, 3 the piece's states
-- ARGV: for each segment: its first word, its messages, its mask (the low bit of each pair to release)
local released = 0
for a = 1, #ARGV, 3 do
  local packed = ARGV[a + 2]
  local mine, old, mask = 0, words_of(read_words(KEYS[3], tonumber(ARGV[a]), #packed)), words_of(packed)
  for i = 1, #mask do
    local sending = band(old[i], bnot(rshift(old[i], 1)), mask[i])
    mine = mine + popcount(sending)
    old[i] = bxor(old[i], sending)
  end
  released = released + mine
  if mine > 0 then redis.call('SETRANGE', KEYS[3], ARGV[a] * 4, string_of(old)) end
end
add(KEYS[1], 'sending', -released)
add(KEYS[2], 'sending', -released)
return released
