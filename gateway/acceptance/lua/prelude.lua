-- Put before every script here, behind the ledger's prelude: outboxes, leases and idempotency keys. Before it stand
-- MESSAGE_KEY, TEXTS_KEY, CALLBACK_KEY and OUTBOX_KEY: the prefixes of these keys; and CHUNK_MESSAGES.
-- KEYS of each script but take_over: 1 sms:stats, 2 the run's hash, 3 sms:runs, 4 the run's outbox,
-- 5 sms:outbox, 6 sms:kept, 7 the leases of the queue, 8 sms:callbacks.
-- The outbox of a run is a hash: fence, holder, lane, track, accepted, relayed, closed; and of the last accept: call,
-- call_fence, answer. Its `:groups` are a list of the accepted groups, each as text: first seq, seq after the last one,
-- bytes, kind ('records', 'callbacks': records with callbacks, or 'texts'), then its idempotency keys.
-- Once the broker has a group it is kept for show: it moves to the list sms:kept, as text: when it expires, run, group.
local STATS, RUN_HASH, RUNS, OUTBOX, TOTAL, KEPT, LEASES, CALLBACKS = unpack(KEYS)

-- What Redis 7.0 takes (measured): for a record with two steps, besides the bytes of the record; and for an idempotency
-- key, besides its name, which is there twice.
local RECORD_BYTES, KEY_BYTES = 430, 250
-- The messages in a group of a run that is accepted whole; a multiple of CHUNK_MESSAGES.
local GROUP_MESSAGES = 500
-- How many messages a call removes at most from what is kept for show. No call accepts more than half of it, one by one.
local TRIMMED_MESSAGES = 1000

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

-- Adds an accepted group to the outbox.
local function add_group(first, beyond, bytes, kind, bound)
  local group = string.format('%d %d %d %s', first, beyond, bytes, kind)
  redis.call('RPUSH', OUTBOX .. ':groups', table.concat({group, unpack(bound)}, ' '))
end

-- Adds accepted messages to the outbox and to the counters of all, and announces them.
local function fill(first, beyond, bytes, piece_messages)
  redis.call('HSET', OUTBOX, 'accepted', beyond)
  add(TOTAL, 'messages', beyond - first)
  add(TOTAL, 'bytes', bytes)
  announce_upto(STATS, RUN_HASH, first, beyond, tonumber(piece_messages))
end

-- Whether so much more would be over the bounds.
local function is_full(messages, bytes, most_messages, most_bytes)
  local t = redis.call('HMGET', TOTAL, 'messages', 'bytes')
  return (t[1] or 0) + messages > tonumber(most_messages) or (t[2] or 0) + bytes > tonumber(most_bytes)
end

-- Moves the groups that end at a seq or before to those that are kept for show.
local function show_groups(run, upto, ttl, key_ttl)
  local bytes, now_s = 0, math.floor(now_us() / 1000000)
  while true do
    local group = redis.call('LINDEX', OUTBOX .. ':groups', 0)
    local beyond, size, bound = string.match(group or '', '^%d+ (%d+) (%d+) %l+(.*)')
    if not beyond or tonumber(beyond) > upto then break end
    local lives_s = bound == '' and tonumber(ttl) or math.max(ttl, key_ttl)
    redis.call('LPOP', OUTBOX .. ':groups')
    redis.call('RPUSH', KEPT, string.format('%d %s %s', now_s + lives_s, run, group))
    bytes = bytes + size
  end
  add(TOTAL, 'bytes', -bytes)
  add(TOTAL, 'kept_bytes', bytes)
end

-- Deletes what is kept of a group.
local function forget(run, first, beyond, kind, bound)
  local names, chunks, uuids = {}, {}, {}
  if kind == 'texts' then
    for chunk = first / CHUNK_MESSAGES, (beyond - 1) / CHUNK_MESSAGES do
      chunks[#chunks + 1] = string.format('%d', chunk)
    end
    redis.call('HDEL', TEXTS_KEY .. run, unpack(chunks))
  else
    for seq = first, beyond - 1 do
      uuids[#uuids + 1] = string.format('%s.%d', run, seq)
      names[#names + 1] = MESSAGE_KEY .. uuids[#uuids]
      if kind == 'callbacks' then names[#names + 1] = CALLBACK_KEY .. uuids[#uuids] end
    end
    if kind == 'callbacks' then redis.call('ZREM', CALLBACKS, unpack(uuids)) end
  end
  for name in string.gmatch(bound, '%S+') do names[#names + 1] = name end
  if #names > 0 then redis.call('DEL', unpack(names)) end
end

-- Removes the groups that have expired, and the oldest ones while all of them take more than `most` bytes.
-- Called first: when Redis is out of memory, a script that has deleted something may write.
local function trim(most)
  local now_s, left = now_us() / 1000000, TRIMMED_MESSAGES
  while left > 0 do
    local lives_s, run, first, beyond, size, kind, bound = string.match(
      redis.call('LINDEX', KEPT, 0) or '', '^(%d+) (%S+) (%d+) (%d+) (%d+) (%l+)(.*)')
    if not run then return end
    local expired = tonumber(lives_s) <= now_s
    if not expired and tonumber(redis.call('HGET', TOTAL, 'kept_bytes') or 0) <= tonumber(most) then return end
    redis.call('LPOP', KEPT)
    if not expired then forget(run, tonumber(first), tonumber(beyond), kind, bound) end
    add(TOTAL, 'kept_bytes', -size)
    left = left - (beyond - first)
  end
end

-- Removes confirmed messages from the outbox; their expiry begins. Returns how far the run is relayed and accepted.
local function drain(run, upto, ttl, key_ttl)
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
  show_groups(run, upto, ttl, key_ttl)
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

-- What an idempotency key takes, if it is not ''.
local function size_of_key(key)
  return key == '' and 0 or KEY_BYTES + 2 * #key
end

-- What a callback takes, if its URL is not '' (measured). A hash with a value of more than 64 bytes takes more.
local function size_of_callback(url)
  return url == '' and 0 or #url + (#url > 64 and 1000 or 420)
end

-- What a chunk of texts takes (measured): Redis allocates large strings in steps of up to a fifth.
local function size_of_chunk(bytes)
  return math.ceil(1.1 * bytes) + 300
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
