-- confirm(run, relayed): takes what the broker has out of the outbox and renews the lease, or gives it up.
-- KEYS: 1 the run's hash, 2 the run's outbox, 3 sms:outbox, 4 the leases
-- ARGV: 1 run, 2 fencing token, 3 relayed, 4 us that a lease lasts, 5 seconds that a message is kept, 6 '1' to close the
--       run, 7 seconds that a settled run lives on, 8 seconds that what is left of a relayed run is kept
-- Returns -1: the lease is another's; else how far the run is accepted.
local o = redis.call('HMGET', KEYS[2], 'fence', 'closed')
if o[1] ~= ARGV[2] then return -1 end
local relayed, accepted = drain(KEYS[2], KEYS[3], ARGV[1], tonumber(ARGV[3]), ARGV[5])
note_relayed(KEYS[1], relayed)
if ARGV[6] == '1' then close(KEYS[2], KEYS[1], accepted) end
if relayed < accepted or not (o[2] or ARGV[6] == '1') then
  lease_for(KEYS[4], ARGV[1], ARGV[4])
else
  -- Relayed whole. What is left says to a repeated accept what the first one was answered.
  redis.call('ZREM', KEYS[4], ARGV[1])
  redis.call('EXPIRE', KEYS[2], ARGV[8])
  if redis.call('EXISTS', KEYS[1]) == 1 then expire_if_settled(KEYS[1], ARGV[7]) end
end
return accepted
