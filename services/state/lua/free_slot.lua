-- Free the slot a session has; when a worker is named, only if it is on that one.
-- KEYS 1 workers  2 beats  3 placements
-- ARGV 1 session id  2 worker id or empty
local placed = redis.call('HGET', KEYS[3], ARGV[1])
if placed and (ARGV[2] == '' or cjson.decode(placed).worker == ARGV[2]) then redis.call('HDEL', KEYS[3], ARGV[1]) end
return {'OK'}
