-- close_run(run): no more of it will be published. Its total is what is announced.
-- KEYS: 1 the run's hash        ARGV: 1 seconds that a settled run is kept
-- Returns 0 if there is no such run.
if redis.call('EXISTS', KEYS[1]) == 0 then return 0 end
local announced = redis.call('HGET', KEYS[1], 'announced') or 0
redis.call('HSET', KEYS[1], 'total', announced, 'confirmed', announced, 'cut', 1)
expire_if_settled(KEYS[1], ARGV[1])
return 1
