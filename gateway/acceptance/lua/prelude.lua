-- Put before every script here, behind the ledger's prelude: outboxes and leases. Before it stands MESSAGE_KEY, what the
-- key of a message's record is called before its id.
-- The outbox of a run is a hash: fence, holder, lane, track, accepted, relayed, bytes, closed; and of the last accept:
-- call, call_fence, answer. Its `ends` are a list of where each accepted group ends, and how many bytes it has.
-- What a record takes in Redis beside its own bytes: key, list and expiry (measured with MEMORY USAGE).
local RECORD_BYTES = 200

local function lease_for(leases_key, run, lease_us)
  redis.call('ZADD', leases_key, string.format('%.0f', now_us() + lease_us), run)
end

-- Adds an accepted group to a run's outbox, and to the counters of all.
local function fill(outbox_key, total_key, beyond, messages, bytes)
  redis.call('HSET', outbox_key, 'accepted', beyond)
  redis.call('RPUSH', outbox_key .. ':ends', string.format('%d:%d', beyond, bytes))
  add(total_key, 'messages', messages)
  add(total_key, 'bytes', bytes)
end

-- Takes what the broker has out of a run's outbox, and begins the time for which it is kept.
local function drain(outbox_key, total_key, run, upto, ttl)
  local r = redis.call('HMGET', outbox_key, 'relayed', 'accepted', 'track')
  local relayed, accepted = tonumber(r[1]), tonumber(r[2])
  upto = math.min(upto, accepted)
  if upto <= relayed then return relayed, accepted end
  local bytes, ends = 0, outbox_key .. ':ends'
  while true do
    local beyond, size = string.match(redis.call('LINDEX', ends, 0) or '', '(%d+):(%d+)')
    if not beyond or tonumber(beyond) > upto then break end
    bytes = bytes + size
    redis.call('LPOP', ends)
  end
  if r[3] == '1' then
    for seq = relayed, upto - 1 do
      redis.call('EXPIRE', string.format('%s%s.%d', MESSAGE_KEY, run, seq), ttl)
    end
  elseif upto == accepted then
    redis.call('EXPIRE', TEXTS_KEY .. run, ttl)
  end
  redis.call('HSET', outbox_key, 'relayed', upto)
  add(total_key, 'messages', relayed - upto)
  add(total_key, 'bytes', -bytes)
  return upto, accepted
end

-- Tells the ledger how far a run is relayed. A run that was forgotten has no hash, and gets none.
local function note_relayed(run_key, relayed)
  if redis.call('EXISTS', run_key) == 0 then return end
  redis.call('HSET', run_key, 'producer_seen_us', now_us())
  if relayed > tonumber(redis.call('HGET', run_key, 'confirmed') or 0) then
    redis.call('HSET', run_key, 'confirmed', relayed)
  end
end

-- No more will be accepted into a run.
local function close(outbox_key, run_key, accepted)
  redis.call('HSET', outbox_key, 'closed', 1)
  if redis.call('EXISTS', run_key) == 1 and redis.call('HEXISTS', run_key, 'cut') == 0 then
    redis.call('HSET', run_key, 'total', accepted, 'cut', 1)
  end
end

-- Binds an idempotency key to an id; gives nothing, or how it is bound already: 'replayed' and the id, or 'conflict'.
local function bind(key, fingerprint, id, kept_s)
  local bound = redis.call('GET', key)
  if not bound then
    redis.call('SET', key, fingerprint .. ' ' .. id, 'EX', kept_s)
    return nil
  end
  local known, of = string.match(bound, '^(%S*) (.*)$')
  if known == fingerprint then return 'replayed', of end
  return 'conflict', ''
end

-- Registers a callback; gateway/callbacks/lua has the scripts that lease and reschedule it.
local function register_callback(callbacks_key, uuid, number, url, first_check_us, lives_ms)
  local now = now_us()
  local key = CALLBACK_KEY .. uuid
  redis.call('HSET', key, 'number', number, 'url', url, 'registered_us', now, 'failures', 0)
  redis.call('PEXPIRE', key, lives_ms)
  redis.call('ZADD', callbacks_key, string.format('%.0f', now + first_check_us), uuid)
end
