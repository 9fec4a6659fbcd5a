-- Read the fleet in one look.
-- KEYS all of the fleet
-- ARGV 1 ms a heartbeat counts
-- Answers {'OK', then for each living worker: report as JSON, age of its heartbeat in ms, slots used}
local now = now_ms()
local watched, renders = slots_used(now)
local answer = {'OK'}
local beats = redis.call('ZRANGEBYSCORE', BEATS, now - tonumber(ARGV[1]), '+inf', 'WITHSCORES')
for i = 1, #beats, 2 do
  if report_of(beats[i]) then
    answer[#answer + 1] = redis.call('HGET', WORKERS, beats[i])
    answer[#answer + 1] = string.format('%.0f', now - tonumber(beats[i + 1]))
    answer[#answer + 1] = tostring((watched[beats[i]] or 0) + (renders[beats[i]] or 0))
  end
end
return answer
