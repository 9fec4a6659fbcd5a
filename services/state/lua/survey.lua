-- The whole fleet in one look, silent workers too: what each last said, what is placed where, who found no slot.
-- KEYS 1 workers  2 beats  3 placements  4 wanting
-- Answers {'OK', sessions that want a slot, workers, then for each worker: report as JSON, ms since its heartbeat, then for
-- each placement that holds: session id, placement as JSON}
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local workers, slots = {}, {}
local beats = redis.call('ZRANGE', KEYS[2], 0, -1, 'WITHSCORES')
for i = 1, #beats, 2 do
  local report = redis.call('HGET', KEYS[1], beats[i])
  if report then
    workers[#workers + 1] = report
    workers[#workers + 1] = string.format('%.0f', now - tonumber(beats[i + 1]))
  end
end
local placements = redis.call('HGETALL', KEYS[3])
for i = 1, #placements, 2 do
  local is_json, placed = pcall(cjson.decode, placements[i + 1])
  if is_json and type(placed) == 'table' and type(placed.until_ms) == 'number'
    and (placed.until_ms == 0 or placed.until_ms > now) then
    slots[#slots + 1] = placements[i]
    slots[#slots + 1] = placements[i + 1]
  end
end
local answer = {'OK', tostring(redis.call('ZCOUNT', KEYS[4], now, '+inf')), tostring(#workers / 2)}
for _, part in ipairs(workers) do answer[#answer + 1] = part end
for _, part in ipairs(slots) do answer[#answer + 1] = part end
return answer
