-- confirm(run, upto): all seqs below `upto` are safely in the queue. A lower value than before changes nothing, and
-- neither does a run that is gone.
-- KEYS: 1 the run's hash        ARGV: 1 upto
if redis.call('EXISTS', KEYS[1]) == 0 then return 0 end
if tonumber(ARGV[1]) > tonumber(redis.call('HGET', KEYS[1], 'confirmed') or 0) then
  redis.call('HSET', KEYS[1], 'confirmed', ARGV[1])
end
redis.call('HSET', KEYS[1], 'producer_seen_us', now_us())
return 1
