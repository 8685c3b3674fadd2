-- take_over(): takes the run whose lease ended first, and closes it.
-- KEYS: 1 the leases of the queue, and no others
-- ARGV: 1 holder, 2 us since when the lease must have ended, 3 us that a lease lasts
-- Returns {}: there is none; else {run, fencing token, lane, track, relayed, accepted, recipe}.
local leases, before = KEYS[1], string.format('%.0f', now_us() - ARGV[2])
while true do
  local run = redis.call('ZRANGEBYSCORE', leases, '-inf', before, 'LIMIT', 0, 1)[1]
  if not run then return {} end
  local outbox = OUTBOX_KEY .. run
  local o = redis.call('HMGET', outbox, 'fence', 'lane', 'track', 'relayed', 'accepted')
  if o[1] then
    redis.call('HSET', outbox, 'fence', o[1] + 1, 'holder', ARGV[1])
    close(outbox, RUN_KEY .. run, o[5])
    lease_for(leases, run, ARGV[3])
    local recipe = redis.call('HGET', RUN_KEY .. run, 'recipe') or ''
    return {run, o[1] + 1, o[2], o[3], tonumber(o[4]), tonumber(o[5]), recipe}
  end
  redis.call('ZREM', leases, run)  -- Redis has lost its outbox
end
