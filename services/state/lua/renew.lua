-- Lengthen a lease. One that ran out is taken up again as long as nobody else took it: the epoch says so.
-- KEYS all of one session
-- ARGV 1 epoch  2 owner  3 lease ms
-- Answers {'OK', owner that waits for the session, or empty}; who waits is told once, and asks again if it still does
local refused = refusal(ARGV[1])
if refused then return refused end
redis.call('SET', LEASE, ARGV[2], 'PX', ARGV[3])
local wanted_by = field('wanted_by') or ''
if wanted_by ~= '' then redis.call('HDEL', RECORD, 'wanted_by') end
return {'OK', wanted_by}
