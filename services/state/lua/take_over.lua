-- Take a session from the holder who gives it away, under a new epoch: only while the holder's own still holds.
-- Repeating it under the same holder's epoch changes nothing.
-- KEYS all of one session
-- ARGV 1 epoch of the holder  2 new owner  3 lease ms  4 chunks of audio history
-- Answers {'OK', epoch}
local refused = refusal(nil)
if refused then return refused end
local present = field('epoch')
if present ~= ARGV[1] then
  if field('owner') == ARGV[2] and field('taken_from') == ARGV[1] then return {'OK', present} end
  return {'STALE_EPOCH', present}
end
local epoch = next_epoch(present)
redis.call('HSET', RECORD, 'epoch', epoch, 'owner', ARGV[2], 'taken_from', present, 'history_chunks', ARGV[4])
redis.call('HDEL', RECORD, 'wanted_by')
redis.call('SET', LEASE, ARGV[2], 'PX', ARGV[3])
changed()
return {'OK', epoch}
