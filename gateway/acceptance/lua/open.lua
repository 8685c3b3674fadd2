-- open(run): opens a run for messages that come one by one.
-- ARGV: 1 run, 2 recipe, 3 holder, 4 lane, 5 us that a lease lasts
-- Repeated, it changes nothing but the lease: no two calls are for the same run.
if redis.call('EXISTS', OUTBOX) == 0 then open_outbox(ARGV[1], ARGV[2], 0, ARGV[3], ARGV[4], 1) end
lease_for(LEASES, ARGV[1], ARGV[5])
return 1
