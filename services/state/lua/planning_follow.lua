-- An orchestrator says how it follows the decision, and is told the decision and how the others follow it.
-- KEYS 1 decision  2 reports  3 beats
-- ARGV 1 replica id  2 report as JSON  3 ms after which a silent replica is forgotten
redis.replicate_commands()
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
if ARGV[1] ~= '' then
  redis.call('HSET', KEYS[2], ARGV[1], ARGV[2])
  redis.call('ZADD', KEYS[3], now, ARGV[1])
end
for _, id in ipairs(redis.call('ZRANGEBYSCORE', KEYS[3], '-inf', now - tonumber(ARGV[3]))) do
  redis.call('HDEL', KEYS[2], id)
  redis.call('ZREM', KEYS[3], id)
end
local answer = {'OK', redis.call('GET', KEYS[1]) or ''}
for _, part in ipairs(redis.call('HGETALL', KEYS[2])) do
  answer[#answer + 1] = part
end
return answer
