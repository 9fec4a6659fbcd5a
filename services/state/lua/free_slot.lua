-- Free the slot a session has; when a worker is named, only if it is on that one.
-- KEYS all of the fleet
-- ARGV 1 session id  2 worker id or empty
local mine = placement_of(ARGV[1])
if not mine or ARGV[2] == '' or mine.worker == ARGV[2] then redis.call('HDEL', PLACEMENTS, ARGV[1]) end
return {'OK'}
