-- The holder says how far it is, and keeps the lease with that; or gives the render back (queued), or ends it.
-- ARGV 1 owner  2 lease ms  3 ms a final one is kept  4 state  5... field, value of the record
-- Answers {'OK'}, {'LOST', ''} when somebody else took it, or {'ENDED', state}
local state = field('state')
if state == ARGV[4] and is_final(state) and field('owner') == ARGV[1] then return {'OK'} end -- said before
local refused = refusal()
if refused then return refused end
if field('owner') ~= ARGV[1] then return {'LOST', ''} end
if is_final(ARGV[4]) then
  finish(ARGV[4], ARGV[3], unpack(ARGV, 5))
  return {'OK'}
end
set('state', ARGV[4], unpack(ARGV, 5))
if ARGV[4] == 'queued' then
  set('owner', '', 'waits', '')
  redis.call('DEL', LEASE)
else
  redis.call('SET', LEASE, ARGV[1], 'PX', ARGV[2])
end
return {'OK'}
