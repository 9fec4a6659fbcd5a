-- Count a render among the unfinished ones, of which there may be so many. Idempotent.
-- KEYS 1 unfinished
-- ARGV 1 TENANT/RENDER  2 most  3 ms until it is due to be looked after
-- Answers {'OK'} or {'MANY', ''}
redis.replicate_commands()
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
if redis.call('ZSCORE', KEYS[1], ARGV[1]) then return {'OK'} end
if redis.call('ZCARD', KEYS[1]) >= tonumber(ARGV[2]) then return {'MANY', ''} end
redis.call('ZADD', KEYS[1], now + tonumber(ARGV[3]), ARGV[1])
return {'OK'}
