-- Take the lease of a session under a new epoch.
-- KEYS all of one session
-- ARGV 1 owner  2 lease ms  3 chunks of audio history  4 owner that is known to be gone, or empty
-- Answers {'OK', epoch} or {'HELD', owner}; the holder hears with its next renewal that somebody waits
local refused = refusal(nil)
if refused then return refused end
local holder = redis.call('GET', LEASE)
if holder and holder ~= ARGV[1] and holder ~= ARGV[4] then
  redis.call('HSET', RECORD, 'wanted_by', ARGV[1])
  return {'HELD', holder}
end
local epoch = next_epoch(field('epoch'))
redis.call('HSET', RECORD, 'epoch', epoch, 'owner', ARGV[1], 'history_chunks', ARGV[3])
redis.call('HDEL', RECORD, 'wanted_by')
redis.call('SET', LEASE, ARGV[1], 'PX', ARGV[2])
changed()
return {'OK', epoch}
