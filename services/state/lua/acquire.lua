-- Take the lease of a session under a new epoch, seeded from TIME so that it never goes back, whatever was lost.
-- KEYS all of one session
-- ARGV 1 owner  2 lease ms  3 chunks of audio history
-- Answers {'OK', epoch} or {'HELD', owner}
local refused = refusal(nil)
if refused then return refused end
local holder = redis.call('GET', LEASE)
if holder and holder ~= ARGV[1] then return {'HELD', holder} end
local epoch = string.format('%.0f', math.max(tonumber(field('epoch')) + 1, now_ms() * 1024))
redis.call('HSET', RECORD, 'epoch', epoch, 'owner', ARGV[1], 'history_chunks', ARGV[3])
redis.call('SET', LEASE, ARGV[1], 'PX', ARGV[2])
changed()
return {'OK', epoch}
