-- age(run): microseconds since it began; opens it if nobody did.
-- KEYS: 1 sms:stats, 2 the run's hash, 3 sms:runs        ARGV: 1 run
if not open_run(KEYS[1], KEYS[2], KEYS[3], ARGV[1]) then return 0 end
return math.max(0, now_us() - redis.call('HGET', KEYS[2], 'started_us'))
