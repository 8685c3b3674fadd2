-- tell: keeps each step with its message, where that is known, and tells it on its channel, in any case.
-- KEYS: the messages' lists
-- ARGV: three for each: the channel, the step in brief to be kept (empty: it is not kept), the step to be told
for i, message in ipairs(KEYS) do
  -- A Redis out of memory refuses to keep it, and can tell it still.
  if ARGV[3 * i - 1] ~= '' then redis.pcall('RPUSHX', message, ARGV[3 * i - 1]) end
  redis.call('PUBLISH', ARGV[3 * i - 2], ARGV[3 * i])
end
