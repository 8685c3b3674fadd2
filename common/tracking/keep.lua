-- keep: adds pieces to the chunks of a run's texts. A piece that the chunk has already is not added again.
-- KEYS: 1 the run's texts
-- ARGV: 1 seconds to keep them; then chunk and piece in turn
for i = 2, #ARGV, 2 do
  local pieces = redis.call('HGET', KEYS[1], ARGV[i]) or ''
  if not string.find(pieces, ARGV[i + 1], 1, true) then
    redis.call('HSET', KEYS[1], ARGV[i], pieces .. ARGV[i + 1])
  end
end
redis.call('EXPIRE', KEYS[1], ARGV[1])
