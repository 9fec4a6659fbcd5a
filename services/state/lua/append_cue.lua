-- Append a cue. Idempotent by client_seq, which only rises.
-- KEYS all of one session
-- ARGV 1 client_seq  2 most cues that may wait  3 a client_seq that was taken before, or 0  4... field, value of the cue
-- Answers {'OK', '1' when it was new, else '0'}
local refused = refusal(nil)
if refused then return refused end
local taken = field('last_client_seq')
if tonumber(taken) < tonumber(ARGV[3]) then return {'CUES_LOST', taken} end
if tonumber(ARGV[1]) <= tonumber(taken) then return {'OK', '0'} end
if redis.call('XLEN', CUES) >= tonumber(ARGV[2]) then return {'BACKLOG', ARGV[2]} end
redis.call('XADD', CUES, ARGV[1] .. '-0', unpack(ARGV, 4))
redis.call('HSET', RECORD, 'last_client_seq', ARGV[1])
changed()
keep(CUES)
return {'OK', '1'}
