-- begin(run): opens a run, once.
-- KEYS: 1 the run's hash, 2 sms:runs, 3 sms:stats, 4 the mark of a forgotten run
-- ARGV: 1 run, 2 recipe, 3 total, 4 producer
-- Returns 1 if the run is this producer's, now or since an earlier call; 0 if the name is taken.
if redis.call('EXISTS', KEYS[1]) == 1 then
  return redis.call('HGET', KEYS[1], 'producer') == ARGV[4] and 1 or 0
end
redis.call('DEL', KEYS[4])
enter_run(KEYS[3], KEYS[1], KEYS[2], ARGV[1])
redis.call('HSET', KEYS[1], 'recipe', ARGV[2], 'total', ARGV[3], 'producer', ARGV[4],
  'producer_seen_us', now_us(), 'announced', 0, 'confirmed', 0)
return 1
