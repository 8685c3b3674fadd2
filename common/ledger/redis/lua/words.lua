-- words(): reads words of pieces, which are strings or sparse.
-- KEYS: 1 the run's hash, then those of the words
-- ARGV: for each of these: its first word, how many bytes
-- Returns whether there is such a run, then the words of each.
local answer = {redis.call('EXISTS', KEYS[1])}
for k = 2, #KEYS do
  local first_word, bytes = tonumber(ARGV[2 * k - 3]), tonumber(ARGV[2 * k - 2])
  answer[k] = read_words(KEYS[k], first_word, bytes, is_sparse(KEYS[k], 1))
end
return answer
