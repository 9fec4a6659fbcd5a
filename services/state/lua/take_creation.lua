-- Take one creation out of a tenant's bucket, which fills at a steady rate.
-- KEYS 1 live  2 rate
-- ARGV 1 creations a minute: what the bucket holds, and how fast it fills
-- Answers {'OK'} or {'WAIT', ms until one is there}
redis.replicate_commands()
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local most = tonumber(ARGV[1])
local a_ms = most / 60000
local bucket = redis.call('HMGET', KEYS[2], 'left', 'at_ms')
local left = math.min(most, (tonumber(bucket[1]) or most) + math.max(0, now - (tonumber(bucket[2]) or now)) * a_ms)
if left < 1 then return {'WAIT', tostring(math.ceil((1 - left) / a_ms))} end
redis.call('HSET', KEYS[2], 'left', tostring(left - 1), 'at_ms', now)
redis.call('PEXPIRE', KEYS[2], 120000)
return {'OK'}
