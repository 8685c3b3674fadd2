-- trim(): removes what is kept for show beyond a bound, some of it. Of no run.
-- ARGV: 1 the most bytes
-- Returns how many bytes are kept for show.
trim(ARGV[1])
return tonumber(redis.call('HGET', TOTAL, 'kept_bytes') or 0)
