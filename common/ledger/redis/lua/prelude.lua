-- Put before every script: words, states, the clock, and the life of a run's keys. Python puts three names before it:
-- RUN_KEY, the prefix of the keys of runs' hashes; OPEN_RUNS, the sorted set of the runs that are not over; and COUNTERS,
-- the fields of the counters (common/counters.py).
-- A state is two bits: 0 queued, 1 sending, 2 sent, 3 failed. LOW has the lower bit of each pair of a word.
local band, bor, bnot, bxor = bit.band, bit.bor, bit.bnot, bit.bxor
local lshift, rshift = bit.lshift, bit.rshift
local LOW = 0x55555555

local function now_us()
  local t = redis.call('TIME')
  return string.format('%d', t[1] * 1000000 + t[2])
end

local function popcount(x)  -- of the low bits of the pairs of a word
  local n = 0
  while x ~= 0 do
    x = band(x, x - 1)
    n = n + 1
  end
  return n
end

-- The words of a string. A thousand at a time, since Lua's stack is short.
local function words_of(s)
  local words, n = {}, #s / 4
  for i = 1, n, 1000 do
    local k = math.min(1000, n - i + 1)
    local part = {struct.unpack('<' .. string.rep('I4', k), s, (i - 1) * 4 + 1)}
    for j = 1, k do words[i + j - 1] = part[j] end
  end
  return words
end

local function string_of(words)
  local parts, n = {}, #words
  for i = 1, n, 1000 do
    local k = math.min(1000, n - i + 1)
    parts[#parts + 1] = struct.pack('<' .. string.rep('I4', k), unpack(words, i, i + k - 1))
  end
  return table.concat(parts)
end

-- The words of a piece are a string, or a hash of blocks if they are sparse: where nobody has announced a message, one
-- far seq would take 32 KiB. A block has the words of 256 messages, 64 bytes: the longest values of a compact hash.
local BLOCK_WORDS = 16

-- Whether words are sparse. Those that do not exist will be, if no bytes are expected of them.
local function is_sparse(key, wanted)
  local kind = redis.call('TYPE', key).ok
  return kind == 'hash' or kind == 'none' and wanted <= 0, kind == 'none'
end

local function blocks_of(key, first_block, last_block)
  local blocks = {}
  for block = first_block, last_block do
    blocks[#blocks + 1] = redis.call('HGET', key, string.format('%d', block)) or string.rep('\0', BLOCK_WORDS * 4)
  end
  return table.concat(blocks)
end

local function read_words(key, first_word, bytes, sparse)
  if sparse then
    local first_block = math.floor(first_word / BLOCK_WORDS)
    local blocks = blocks_of(key, first_block, math.floor((first_word + bytes / 4 - 1) / BLOCK_WORDS))
    local at = (first_word - first_block * BLOCK_WORDS) * 4
    return string.sub(blocks, at + 1, at + bytes)
  end
  local s = redis.call('GETRANGE', key, first_word * 4, first_word * 4 + bytes - 1)
  if #s < bytes then s = s .. string.rep('\0', bytes - #s) end
  return s
end

-- Writes the string of some words.
local function put_words(key, first_word, packed, sparse)
  if not sparse then
    redis.call('SETRANGE', key, first_word * 4, packed)
    return
  end
  local first_block = math.floor(first_word / BLOCK_WORDS)
  local last_block = math.floor((first_word + #packed / 4 - 1) / BLOCK_WORDS)
  local blocks, at = blocks_of(key, first_block, last_block), (first_word - first_block * BLOCK_WORDS) * 4
  blocks = string.sub(blocks, 1, at) .. packed .. string.sub(blocks, at + #packed + 1)
  for block = first_block, last_block do
    local begins = (block - first_block) * BLOCK_WORDS * 4
    redis.call('HSET', key, string.format('%d', block), string.sub(blocks, begins + 1, begins + BLOCK_WORDS * 4))
  end
end

-- Redis doubles the room of a string that grows, so the room for all expected messages is made at once.
local function write_words(key, first_word, words, wanted, sparse)
  local room = sparse and wanted or redis.call('STRLEN', key)
  if room < (first_word + #words) * 4 and room < wanted then
    local now = redis.call('GET', key) or ''
    redis.call('SET', key, now .. string.rep('\0', wanted - room), 'KEEPTTL')
  end
  put_words(key, first_word, string_of(words), sparse)
end

-- How far a run is announced, and how many bytes a piece of it is expected to take.
local function room_to_come(run_key, base, piece_messages)
  local r = redis.call('HMGET', run_key, 'announced', 'total')
  local announced = tonumber(r[1] or 0)
  local expected = math.min(math.max(announced, tonumber(r[2] or 0)) - base, tonumber(piece_messages))
  return announced, math.ceil(expected / 16) * 4
end

-- The part of a mask whose messages have seqs from `from` on. `base` is the first seq of its word.
local function from_seq(mask, base, from)
  if from <= base then return mask end
  if from >= base + 16 then return 0 end
  return band(mask, lshift(bnot(0), 2 * (from - base)))
end

-- How many seqs of a mask count as published now: each one that was not announced counts once.
local function publish_unannounced(key, base, announced, first_word, mask)
  local counted, published = words_of(read_words(key, first_word, #mask * 4, true)), 0
  for i, m in ipairs(mask) do
    local fresh = band(from_seq(m, base + (first_word + i - 1) * 16, announced), bnot(counted[i]))
    published = published + popcount(fresh)
    counted[i] = bor(counted[i], fresh)
  end
  if published > 0 then put_words(key, first_word, string_of(counted), true) end
  return published
end

-- The part of seqs `first` to `upto - 1` that was counted as published with no announcement.
local function counted_before(run_key, first, upto, size)
  local counted = 0
  for piece = math.floor(first / size), math.floor((upto - 1) / size) do
    local key, base = run_key .. ':unannounced:' .. string.format('%d', piece), piece * size
    if redis.call('EXISTS', key) == 1 then
      local first_word = math.floor((math.max(first, base) - base) / 16)
      local beyond_word = math.ceil((math.min(upto, base + size) - base) / 16)
      local words = words_of(read_words(key, first_word, (beyond_word - first_word) * 4, true))
      for i, word in ipairs(words) do
        local seq = base + (first_word + i - 1) * 16
        counted = counted + popcount(from_seq(word, seq, first)) - popcount(from_seq(word, seq, upto))
      end
    end
  end
  return counted
end

local function add(key, field, n)
  -- As text: some versions write large whole numbers as 1e+09, which HINCRBY refuses.
  if n ~= 0 then redis.call('HINCRBY', key, field, string.format('%.0f', n)) end
end

local function show_all_counters(key)  -- so that the hash shows each of them
  for _, field in ipairs(COUNTERS) do redis.call('HSETNX', key, field, 0) end
end

-- A run is over when all of it is settled and no more messages are expected.
local function is_over(run_key)
  local r = redis.call('HMGET', run_key, 'published', 'sent', 'failed', 'total', 'producer', 'cut')
  local published, total = tonumber(r[1] or 0), tonumber(r[4] or 0)
  if published > (r[2] or 0) + (r[3] or 0) then return false end
  if not r[5] then return published > 0 end
  return r[6] or (total > 0 and total <= published)
end

local function list_as_open(run_key)
  redis.call('ZADD', OPEN_RUNS, redis.call('HGET', run_key, 'started_us'), string.sub(run_key, #RUN_KEY + 1))
end

local function list_as_over(run_key)
  redis.call('ZREM', OPEN_RUNS, string.sub(run_key, #RUN_KEY + 1))
end

-- Enters a run that begins now.
local function enter_run(stats_key, run_key, runs_key, name)
  local now = now_us()
  redis.call('HSET', run_key, 'started_us', now)
  redis.call('ZADD', runs_key, now, name)
  list_as_open(run_key)
  show_all_counters(stats_key)
  show_all_counters(run_key)
  -- The beginning of the totals outlives the run that began then.
  local oldest = redis.call('ZRANGE', runs_key, 0, 0, 'WITHSCORES')
  redis.call('HSETNX', stats_key, 'started_us', string.format('%d', oldest[2]))
end

-- Late messages of a forgotten run are not counted. It has no hash until its name is used again.
local function is_forgotten(run_key)
  return redis.call('EXISTS', run_key .. ':forgotten') == 1
end

-- Opens a run that was not begun: its messages were published without an announcement. False if it was forgotten.
local function open_run(stats_key, run_key, runs_key, name)
  if redis.call('EXISTS', run_key) == 1 then return true end
  if is_forgotten(run_key) then return false end
  enter_run(stats_key, run_key, runs_key, name)
  return true
end

-- Words in which all messages of a mask are sent: the states of a forgotten run.
local function all_sent(mask)
  return string.rep('\170', #mask)
end

-- The same for each segment of a claim, the first of which begins at ARGV[first].
local function all_sent_of(first)
  local words = {}
  for a = first + 2, #ARGV, 3 do words[#words + 1] = all_sent(ARGV[a]) end
  return words
end

-- Words with no mark, for each segment of a cancellation.
local function none_of(first)
  local words = {}
  for a = first + 2, #ARGV, 3 do words[#words + 1] = string.rep('\0', #ARGV[a]) end
  return words
end

local function keys_of(run_key)
  local keys = {run_key, run_key .. ':latency', run_key .. ':pieces'}
  for _, piece in ipairs(redis.call('SMEMBERS', run_key .. ':pieces')) do
    keys[#keys + 1] = run_key .. ':states:' .. piece
    keys[#keys + 1] = run_key .. ':unannounced:' .. piece
    keys[#keys + 1] = run_key .. ':replayed:' .. piece
    keys[#keys + 1] = run_key .. ':canceled:' .. piece
  end
  return keys
end

-- Lets the keys of a run expire after a time; never with 0.
local function live_for(run_key, ttl)
  for _, key in ipairs(keys_of(run_key)) do
    if ttl > 0 then redis.call('EXPIRE', key, ttl) else redis.call('PERSIST', key) end
  end
end

local function wake(run_key)
  if redis.call('TTL', run_key) < 0 then return end
  live_for(run_key, 0)
  list_as_open(run_key)
end

local function expire_if_settled(run_key, ttl)
  local r = redis.call('HMGET', run_key, 'published', 'sent', 'failed')
  if tonumber(r[1] or 0) > (r[2] or 0) + (r[3] or 0) then return end
  live_for(run_key, tonumber(ttl))
  if is_over(run_key) then list_as_over(run_key) end
end

-- Announces a run from where it is up to a seq; each seq is added to published once.
local function announce_upto(stats_key, run_key, announced, upto, size)
  local fresh = upto - announced - counted_before(run_key, announced, upto, size)
  redis.call('HSET', run_key, 'announced', upto)
  if fresh > 0 then wake(run_key) end
  add(run_key, 'published', fresh)
  add(stats_key, 'published', fresh)
end
