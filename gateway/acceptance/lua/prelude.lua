-- Put before every script here, behind the ledger's prelude: outboxes, leases and idempotency keys. Before it stand
-- MESSAGE_KEY, TEXTS_KEY, CALLBACK_KEY and OUTBOX_KEY: the prefixes of these keys.
-- KEYS of each script but take_over: 1 sms:stats, 2 the run's hash, 3 sms:runs, 4 the run's outbox, 5 sms:outbox, 6 the
-- leases of the queue, 7 sms:callbacks.
-- The outbox of a run is a hash: fence, holder, lane, track, accepted, relayed, closed; and of the last accept: call,
-- call_fence, answer. Its `:ends` are a list of where each accepted group ends, and how many bytes it has.
local STATS, RUN_HASH, RUNS, OUTBOX, TOTAL, LEASES, CALLBACKS = unpack(KEYS)

-- The overhead of a record in Redis. Redis 7.0 takes 435 bytes for a record of 120, with key, list and expiry.
local RECORD_BYTES = 310

local function lease_for(leases, run, lease_us)
  redis.call('ZADD', leases, string.format('%.0f', now_us() + lease_us), run)
end

-- Enters a run in the ledger, and its outbox.
local function open_outbox(run, recipe, total, holder, lane, track)
  enter_run(STATS, RUN_HASH, RUNS, run)
  redis.call('HSET', RUN_HASH, 'recipe', recipe, 'total', total, 'producer', holder, 'producer_seen_us', now_us(),
    'announced', 0, 'confirmed', 0)
  redis.call('HSET', OUTBOX, 'fence', 1, 'holder', holder, 'lane', lane, 'track', track, 'accepted', 0, 'relayed', 0,
    'call', 0)
end

-- Adds an accepted group to the outbox and to the counters of all, and announces it.
local function fill(first, beyond, bytes, piece_messages)
  redis.call('HSET', OUTBOX, 'accepted', beyond)
  redis.call('RPUSH', OUTBOX .. ':ends', string.format('%d:%d', beyond, bytes))
  add(TOTAL, 'messages', beyond - first)
  add(TOTAL, 'bytes', bytes)
  announce_upto(STATS, RUN_HASH, first, beyond, tonumber(piece_messages))
end

-- Whether so much more would be over the bounds.
local function is_full(messages, bytes, most_messages, most_bytes)
  local t = redis.call('HMGET', TOTAL, 'messages', 'bytes')
  return (t[1] or 0) + messages > tonumber(most_messages) or (t[2] or 0) + bytes > tonumber(most_bytes)
end

-- The bytes of the groups that end at a seq or before; they are taken off the list of ends.
local function bytes_of_ended(upto)
  local bytes, ends = 0, OUTBOX .. ':ends'
  while true do
    local beyond, size = string.match(redis.call('LINDEX', ends, 0) or '', '(%d+):(%d+)')
    if not beyond or tonumber(beyond) > upto then return bytes end
    bytes = bytes + size
    redis.call('LPOP', ends)
  end
end

-- Removes confirmed messages from the outbox; their expiry begins. Returns how far the run is relayed and accepted.
local function drain(run, upto, ttl)
  local o = redis.call('HMGET', OUTBOX, 'relayed', 'accepted', 'track')
  local relayed, accepted = tonumber(o[1]), tonumber(o[2])
  upto = math.min(upto, accepted)
  if upto <= relayed then return relayed, accepted end
  if o[3] == '1' then
    for seq = relayed, upto - 1 do redis.call('EXPIRE', string.format('%s%s.%d', MESSAGE_KEY, run, seq), ttl) end
  elseif upto == accepted then
    redis.call('EXPIRE', TEXTS_KEY .. run, ttl)
  end
  redis.call('HSET', OUTBOX, 'relayed', upto)
  add(TOTAL, 'messages', relayed - upto)
  add(TOTAL, 'bytes', -bytes_of_ended(upto))
  return upto, accepted
end

-- Tells the ledger how far a run is relayed. A run that was forgotten has no hash, and gets none.
local function note_relayed(relayed)
  if redis.call('EXISTS', RUN_HASH) == 0 then return end
  redis.call('HSET', RUN_HASH, 'producer_seen_us', now_us())
  if relayed > tonumber(redis.call('HGET', RUN_HASH, 'confirmed') or 0) then
    redis.call('HSET', RUN_HASH, 'confirmed', relayed)
  end
end

-- No more will be accepted into a run.
local function close(outbox, run_hash, accepted)
  redis.call('HSET', outbox, 'closed', 1)
  if redis.call('EXISTS', run_hash) == 1 and redis.call('HEXISTS', run_hash, 'cut') == 0 then
    redis.call('HSET', run_hash, 'total', accepted, 'cut', 1)
  end
end

-- Binds an idempotency key to an id. If it is bound already, gives 'replayed' and that id, or 'conflict'.
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
local function register_callback(uuid, number, url, first_check_us, lives_ms)
  local now, key = now_us(), CALLBACK_KEY .. uuid
  redis.call('HSET', key, 'number', number, 'url', url, 'registered_us', now, 'failures', 0)
  redis.call('PEXPIRE', key, lives_ms)
  redis.call('ZADD', CALLBACKS, string.format('%.0f', now + first_check_us), uuid)
end
