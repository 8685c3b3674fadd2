-- mark_replayed(run, messages of one piece): they were replayed as another run. The marks are kept as long as the run.
-- KEYS: 1 the run's hash, 2 the piece's marks        ARGV: offsets into the piece
if redis.call('EXISTS', KEYS[1]) == 0 then return 0 end
for i = 1, #ARGV do redis.call('SETBIT', KEYS[2], ARGV[i], 1) end
local ttl = redis.call('TTL', KEYS[1])
if ttl >= 0 then redis.call('EXPIRE', KEYS[2], ttl) end
return 1
