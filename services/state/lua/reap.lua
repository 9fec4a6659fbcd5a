-- End a session that no worker has had for too long, unless one has taken it since.
-- KEYS all of one session
-- ARGV 1 epoch it was found with  2 state  3 error  4 ms the keys of an ended session are kept
-- Answers {'OK'} or {'HELD', owner}
local refused = refusal(ARGV[1])
if refused then return refused end
local holder = redis.call('GET', LEASE)
if holder then return {'HELD', holder} end
finish(ARGV[2], ARGV[3], ARGV[4])
return {'OK'}
