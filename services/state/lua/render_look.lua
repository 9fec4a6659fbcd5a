-- Look after a render that somebody may have lost: one that runs and has no holder waits again, one out of time fails.
-- ARGV 1 ms a final one is kept
-- Answers {'OK', 'held' | 'waits' | 'lost' | 'final' | 'gone'}
local refused = refusal()
if refused then return {'OK', refused[1] == 'ENDED' and 'final' or 'gone'} end
if redis.call('EXISTS', LEASE) == 1 then return {'OK', 'held'} end
if tonumber(field('expire_ms')) <= now then
  finish('failed', ARGV[1], 'error', 'it was not finished in time')
  return {'OK', 'final'}
end
if field('state') == 'queued' then return {'OK', 'waits'} end
set('state', 'queued', 'owner', '', 'waits', '')
return {'OK', 'lost'}
