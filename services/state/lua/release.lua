-- Give a lease back, so that another worker need not wait for its end. Harmless when it is no longer held.
-- KEYS all of one session
-- ARGV 1 epoch
if field('epoch') == ARGV[1] then redis.call('DEL', LEASE) end
return {'OK'}
