-- A session found no slot: it is counted as wanting one for a while, and no longer once it has one.
-- KEYS 1 wanting
-- ARGV 1 session id  2 ms it counts, 0 to count it no longer
redis.replicate_commands()
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
if ARGV[2] == '0' then
  redis.call('ZREM', KEYS[1], ARGV[1])
else
  redis.call('ZADD', KEYS[1], now + tonumber(ARGV[2]), ARGV[1])
end
return {'OK'}
