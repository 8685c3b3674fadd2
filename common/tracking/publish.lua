-- publish: keeps each step in the list of its message, if that exists, and publishes it on its channel.
-- KEYS: the lists of the messages
-- ARGV: three for each: the channel, the step in brief to be kept (empty: it is not kept), the step to be published
for i, message in ipairs(KEYS) do
  -- Redis refuses to keep it when it is out of memory, and can still publish it.
  if ARGV[3 * i - 1] ~= '' then redis.pcall('RPUSHX', message, ARGV[3 * i - 1]) end
  redis.call('PUBLISH', ARGV[3 * i - 2], ARGV[3 * i])
end
