-- confirm(run, relayed): removes confirmed messages from the outbox, and renews the lease.
-- ARGV: 1 run, 2 fencing token, 3 relayed, 4 us that a lease lasts, 5 seconds that a message is kept, 6 '1' to close the
--       run, 7 seconds that a settled run is kept, 8 seconds that the last answer of a relayed run is kept, 9 most bytes
--       kept for show, 10 seconds that a key is kept
-- Returns -1: the lease is another's; else how far the run is accepted.
local o = redis.call('HMGET', OUTBOX, 'fence', 'closed')
if o[1] ~= ARGV[2] then return -1 end
trim(ARGV[9])
local relayed, accepted = drain(ARGV[1], tonumber(ARGV[3]), ARGV[5], ARGV[10])
note_relayed(relayed)
if ARGV[6] == '1' then close(OUTBOX, RUN_HASH, accepted) end
if relayed < accepted or not (o[2] or ARGV[6] == '1') then
  lease_for(LEASES, ARGV[1], ARGV[4])
else
  -- The run is relayed. The hash is kept for a while, for a repeated accept whose first answer was lost.
  redis.call('ZREM', LEASES, ARGV[1])
  redis.call('EXPIRE', OUTBOX, ARGV[8])
  if redis.call('EXISTS', RUN_HASH) == 1 then expire_if_settled(RUN_HASH, ARGV[7]) end
end
return accepted
