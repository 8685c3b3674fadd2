-- leave(run): its producer ends early, so another may resume it at once.
-- KEYS: 1 the run's hash        ARGV: 1 producer
if redis.call('HGET', KEYS[1], 'producer') == ARGV[1] then redis.call('HSET', KEYS[1], 'producer_seen_us', 0) end
return 1
