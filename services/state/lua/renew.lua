-- Lengthen a lease. One that ran out is taken up again as long as nobody else took it: the epoch says so.
-- KEYS all of one session
-- ARGV 1 epoch  2 owner  3 lease ms
local refused = refusal(ARGV[1])
if refused then return refused end
redis.call('SET', LEASE, ARGV[2], 'PX', ARGV[3])
return {'OK'}
