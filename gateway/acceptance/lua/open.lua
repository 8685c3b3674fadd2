-- open(run): opens a run for messages that come one by one.
-- KEYS: 1 sms:stats, 2 the run's hash, 3 sms:runs, 4 the run's outbox, 5 the leases
-- ARGV: 1 run, 2 recipe, 3 holder, 4 lane, 5 us that a lease lasts
-- Repeated, it changes nothing but the lease: no two calls are for the same run.
if redis.call('EXISTS', KEYS[4]) == 0 then
  enter_run(KEYS[1], KEYS[2], KEYS[3], ARGV[1])
  redis.call('HSET', KEYS[2], 'recipe', ARGV[2], 'total', 0, 'producer', ARGV[3], 'producer_seen_us', now_us(),
    'announced', 0, 'confirmed', 0)
  redis.call('HSET', KEYS[4], 'fence', 1, 'holder', ARGV[3], 'lane', ARGV[4], 'track', 1, 'accepted', 0, 'relayed', 0,
    'call', 0)
end
lease_for(KEYS[5], ARGV[1], ARGV[5])
return 1
