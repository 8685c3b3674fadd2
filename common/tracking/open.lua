-- open: creates the lists of tracked messages. A list that exists is not changed.
-- KEYS: the messages' lists
-- ARGV: 1 seconds to keep them; then the record of each
for i, message in ipairs(KEYS) do
  if redis.call('EXISTS', message) == 0 then
    redis.call('RPUSH', message, ARGV[i + 1])
    redis.call('EXPIRE', message, ARGV[1])
  end
end
