-- Put before every script: words, states, the clock, and the life of a run's keys.
-- A state is two bits: 0 queued, 1 sending, 2 sent, 3 failed. LOW has the lower bit of each pair of a word.
local band, bor, bnot, bxor, rshift = bit.band, bit.bor, bit.bnot, bit.bxor, bit.rshift
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

-- Words of a string, a thousand at a time, since Lua's stack is short.
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

local function read_words(key, first_word, bytes)
  local s = redis.call('GETRANGE', key, first_word * 4, first_word * 4 + bytes - 1)
  if #s < bytes then s = s .. string.rep('\0', bytes - #s) end
  return s
end

local function add(key, field, n)
  -- As text: some versions write large whole numbers as 1e+09, which HINCRBY refuses.
  if n ~= 0 then redis.call('HINCRBY', key, field, string.format('%.0f', n)) end
end

local COUNTERS = {'published', 'sending', 'sent', 'failed', 'retried', 'ambiguous', 'rejected', 'total_time_us'}

local function show_all_counters(key)  -- so that a reader of the hash finds each of them
  for _, field in ipairs(COUNTERS) do redis.call('HSETNX', key, field, 0) end
end

-- Enters a run that begins now.
local function enter_run(stats_key, run_key, runs_key, name)
  local now = now_us()
  redis.call('HSET', run_key, 'started_us', now)
  redis.call('ZADD', runs_key, now, name)
  show_all_counters(stats_key)
  show_all_counters(run_key)
  -- When the totals began stays known when the run that began then is gone.
  local oldest = redis.call('ZRANGE', runs_key, 0, 0, 'WITHSCORES')
  redis.call('HSETNX', stats_key, 'started_us', string.format('%d', oldest[2]))
end

-- Of a forgotten run, whatever still comes is late and counts nowhere. It has no hash until its name begins again.
local function is_forgotten(run_key)
  return redis.call('EXISTS', run_key .. ':forgotten') == 1
end

-- Opens a run that nobody began: somebody publishes without a word to the ledger. False if it was forgotten.
local function open_run(stats_key, run_key, runs_key, name)
  if redis.call('EXISTS', run_key) == 1 then return true end
  if is_forgotten(run_key) then return false end
  enter_run(stats_key, run_key, runs_key, name)
  return true
end

-- Words of messages that are all sent, as many as a mask has: what is found of a forgotten run.
local function all_sent(mask)
  return string.rep('\170', #mask)
end

local function keys_of(run_key)
  local keys = {run_key, run_key .. ':latency', run_key .. ':pieces'}
  for _, piece in ipairs(redis.call('SMEMBERS', run_key .. ':pieces')) do
    keys[#keys + 1] = run_key .. ':states:' .. piece
    keys[#keys + 1] = run_key .. ':unannounced:' .. piece
    keys[#keys + 1] = run_key .. ':replayed:' .. piece
  end
  return keys
end

-- A settled run's keys expire; those of one that goes on don't. ttl 0: for good.
local function live_for(run_key, ttl)
  for _, key in ipairs(keys_of(run_key)) do
    if ttl > 0 then redis.call('EXPIRE', key, ttl) else redis.call('PERSIST', key) end
  end
end

local function wake(run_key)
  if redis.call('TTL', run_key) >= 0 then live_for(run_key, 0) end
end

local function expire_if_settled(run_key, ttl)
  local r = redis.call('HMGET', run_key, 'published', 'sent', 'failed')
  if tonumber(r[1] or 0) <= (r[2] or 0) + (r[3] or 0) then live_for(run_key, tonumber(ttl)) end
end

