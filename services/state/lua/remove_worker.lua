-- A worker leaves: it and what was placed on it are forgotten.
-- KEYS 1 workers  2 beats  3 placements
-- ARGV 1 worker id
redis.call('HDEL', KEYS[1], ARGV[1])
redis.call('ZREM', KEYS[2], ARGV[1])
local placements = redis.call('HGETALL', KEYS[3])
for i = 1, #placements, 2 do
  if cjson.decode(placements[i + 1]).worker == ARGV[1] then redis.call('HDEL', KEYS[3], placements[i]) end
end
return {'OK'}
