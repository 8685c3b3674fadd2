-- announce(run, first, count): adds a range to published; what was announced or counted before is not added again.
-- KEYS: 1 sms:stats, 2 the run's hash, 3 sms:runs        ARGV: 1 run, 2 first, 3 count, 4 messages a piece
-- Returns -1; how far the run was announced if that leaves a gap before `first`; -2 if it was cut and this is new.
local first, upto, size = tonumber(ARGV[2]), ARGV[2] + ARGV[3], tonumber(ARGV[4])
if is_forgotten(KEYS[2]) then return -1 end
local announced = tonumber(redis.call('HGET', KEYS[2], 'announced') or 0)
if first > announced then return announced end
if upto > announced and redis.call('HEXISTS', KEYS[2], 'cut') == 1 then return -2 end
open_run(KEYS[1], KEYS[2], KEYS[3], ARGV[1])
if upto > announced then announce_upto(KEYS[1], KEYS[2], announced, upto, size) end
redis.call('HSET', KEYS[2], 'producer_seen_us', now_us())
return -1
