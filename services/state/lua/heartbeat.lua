-- A worker says that it lives, what it is and which sessions it hosts.
-- KEYS all of the fleet
-- ARGV 1 worker id  2 report as JSON  3 ms after which a silent worker is forgotten  4... ids of its sessions
local now = now_ms()
redis.call('HSET', WORKERS, ARGV[1], ARGV[2])
redis.call('ZADD', BEATS, now, ARGV[1])

local hosted = {}
for i = 4, #ARGV do
  hosted[ARGV[i]] = true
  local mine = placement_of(ARGV[i])
  if not mine or mine.worker == ARGV[1] then place(ARGV[i], ARGV[1], 0) end
  redis.call('ZADD', OPEN, now, ARGV[i])
end
local silent = {}
for _, id in ipairs(redis.call('ZRANGEBYSCORE', BEATS, '-inf', now - tonumber(ARGV[3]))) do
  silent[id] = true
  redis.call('HDEL', WORKERS, id)
  redis.call('ZREM', BEATS, id)
end
-- What it confirmed once and does not host any more is free; so is a reservation nobody took up in time.
for _, entry in ipairs(placed()) do
  local session, slot = unpack(entry, 1, 2)
  if not slot or silent[slot.worker] or (slot.worker == ARGV[1] and slot.until_ms <= now and not hosted[session]) then
    redis.call('HDEL', PLACEMENTS, session)
  end
end
return {'OK'}
