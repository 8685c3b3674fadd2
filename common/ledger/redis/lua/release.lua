-- release(run, seqs of one piece): sending -> queued, for what was claimed and not begun.
-- KEYS: 1 sms:stats, 2 the run's hash, 3 the piece's states
-- ARGV: 1 '1' if an earlier call had no answer: another sender may have claimed the messages, so they are ambiguous;
--       then for each segment: its first word, its mask (the low bit of each pair to release)
local released, sparse = 0, is_sparse(KEYS[3], 1)
for a = 2, #ARGV, 2 do
  local packed = ARGV[a + 1]
  local mine, old, mask = 0, words_of(read_words(KEYS[3], tonumber(ARGV[a]), #packed, sparse)), words_of(packed)
  for i = 1, #mask do
    local sending = band(old[i], bnot(rshift(old[i], 1)), mask[i])
    mine = mine + popcount(sending)
    old[i] = bxor(old[i], sending)
  end
  released = released + mine
  if mine > 0 then put_words(KEYS[3], tonumber(ARGV[a]), string_of(old), sparse) end
end
for _, key in ipairs({KEYS[1], KEYS[2]}) do
  add(key, 'sending', -released)
  if ARGV[1] == '1' then add(key, 'ambiguous', released) end
end
return released
