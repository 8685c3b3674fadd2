-- runs(): some of the names in a sorted set of runs, with their beginnings. Removes those that have expired.
-- KEYS: 1 the sorted set        ARGV: 1 where this page begins: 0, or the answer to the page before, 2 about how many names
-- Returns where the next page begins, 0 after the last one, and {name, when, name, when, ...}. In any order; a name
-- that stays in the set is in some page.
local page, alive = redis.call('ZSCAN', KEYS[1], ARGV[1], 'COUNT', ARGV[2]), {}
for i = 1, #page[2], 2 do
  if redis.call('EXISTS', RUN_KEY .. page[2][i]) == 1 then
    alive[#alive + 1] = page[2][i]
    alive[#alive + 1] = page[2][i + 1]
  else
    redis.call('ZREM', KEYS[1], page[2][i])
  end
end
return {page[1], alive}
