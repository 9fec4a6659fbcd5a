-- Change a session's state. A final state stays; setting it again changes nothing.
-- KEYS all of one session
-- ARGV 1 state  2 error  3 epoch or empty  4 ms the keys of an ended session are kept
local state = field('state')
if not state then return {'GONE', ''} end
if state == ARGV[1] then return {'OK'} end
local refused = refusal(ARGV[3] ~= '' and ARGV[3] or nil)
if refused then return refused end
if ARGV[1] == 'closed' or ARGV[1] == 'failed' then
  finish(ARGV[1], ARGV[2], ARGV[4])
else
  redis.call('HSET', RECORD, 'state', ARGV[1], 'error', ARGV[2])
  changed()
end
return {'OK'}
