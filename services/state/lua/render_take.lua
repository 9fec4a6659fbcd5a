-- Take the right to perform a render, which nobody else has meanwhile.
-- ARGV 1 owner, new for every attempt  2 lease ms  3 ms a final one is kept
-- Answers {'OK', attempt}, {'HELD', ''} or {'ENDED', state}
local refused = refusal()
if refused then return refused end
if tonumber(field('expire_ms')) <= now then
  finish('failed', ARGV[3], 'error', 'it was not finished in time')
  return {'ENDED', 'failed'}
end
local holder = redis.call('GET', LEASE)
if holder and holder ~= ARGV[1] then return {'HELD', ''} end
if field('owner') ~= ARGV[1] then redis.call('HINCRBY', RECORD, 'attempts', 1) end
set('owner', ARGV[1], 'state', 'running')
redis.call('SET', LEASE, ARGV[1], 'PX', ARGV[2])
return {'OK', field('attempts')}
