-- A worker leaves: it and what was placed on it are forgotten.
-- KEYS all of the fleet
-- ARGV 1 worker id
redis.call('HDEL', WORKERS, ARGV[1])
redis.call('ZREM', BEATS, ARGV[1])
for _, entry in ipairs(placed()) do
  if not entry[2] or entry[2].worker == ARGV[1] then redis.call('HDEL', PLACEMENTS, entry[1]) end
end
return {'OK'}
