-- ready(): a write by a script, which all other calls are, too.
-- KEYS: 1 sms:ready
redis.call('SET', KEYS[1], 1, 'EX', 60)
return 1
