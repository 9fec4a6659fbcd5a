-- A worker says that it lives, what it is and which sessions it hosts.
-- KEYS 1 workers  2 beats  3 placements
-- ARGV 1 worker id  2 report as JSON  3 ms after which a silent worker is forgotten  4... ids of its sessions
redis.replicate_commands()
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
redis.call('ZADD', KEYS[2], now, ARGV[1])

local hosted = {}
for i = 4, #ARGV do
  hosted[ARGV[i]] = true
  local placed = redis.call('HGET', KEYS[3], ARGV[i])
  if not placed or cjson.decode(placed).worker == ARGV[1] then
    redis.call('HSET', KEYS[3], ARGV[i], cjson.encode({worker = ARGV[1], until_ms = 0}))
  end
end
local silent = {}
for _, id in ipairs(redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', now - tonumber(ARGV[3]))) do
  silent[id] = true
  redis.call('HDEL', KEYS[1], id)
  redis.call('ZREM', KEYS[2], id)
end
-- What it confirmed once and does not host any more is free; so is a reservation nobody took up in time.
local placements = redis.call('HGETALL', KEYS[3])
for i = 1, #placements, 2 do
  local placed = cjson.decode(placements[i + 1])
  local late = placed.until_ms <= now
  if silent[placed.worker] or (placed.worker == ARGV[1] and late and not hosted[placements[i]]) then
    redis.call('HDEL', KEYS[3], placements[i])
  end
end
return {'OK'}
