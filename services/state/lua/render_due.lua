-- Name renders that are to be looked after, so that nobody else looks after them for a while.
-- KEYS 1 unfinished
-- ARGV 1 ms until they are due again  2 how many at most
-- Answers {'OK', TENANT/RENDER...}
redis.replicate_commands()
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local due = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'LIMIT', 0, ARGV[2])
for _, name in ipairs(due) do redis.call('ZADD', KEYS[1], now + tonumber(ARGV[1]), name) end
return {'OK', unpack(due)}
