-- Read the fleet in one look.
-- KEYS 1 workers  2 beats  3 placements
-- ARGV 1 ms a heartbeat counts
-- Answers {'OK', then for each living worker: report as JSON, age of its heartbeat in ms, slots used}
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local used = {}
local placements = redis.call('HGETALL', KEYS[3])
for i = 1, #placements, 2 do
  local placed = cjson.decode(placements[i + 1])
  if placed.until_ms == 0 or placed.until_ms > now then used[placed.worker] = (used[placed.worker] or 0) + 1 end
end
local answer = {'OK'}
local beats = redis.call('ZRANGEBYSCORE', KEYS[2], now - tonumber(ARGV[1]), '+inf', 'WITHSCORES')
for i = 1, #beats, 2 do
  local report = redis.call('HGET', KEYS[1], beats[i])
  if report then
    answer[#answer + 1] = report
    answer[#answer + 1] = string.format('%.0f', now - tonumber(beats[i + 1]))
    answer[#answer + 1] = tostring(used[beats[i]] or 0)
  end
end
return answer
