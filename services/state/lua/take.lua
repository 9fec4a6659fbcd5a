-- Take some out of a tenant's bucket, which fills at a steady rate.
-- KEYS 1 the bucket
-- ARGV 1 how much  2 what the bucket holds, and what flows in within a minute
-- Answers {'OK'} or {'WAIT', ms until so much is there}
redis.replicate_commands()
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local wanted, most = tonumber(ARGV[1]), tonumber(ARGV[2])
local a_ms = most / 60000
local bucket = redis.call('HMGET', KEYS[1], 'left', 'at_ms')
local left = math.min(most, (tonumber(bucket[1]) or most) + math.max(0, now - (tonumber(bucket[2]) or now)) * a_ms)
if left < wanted then return {'WAIT', tostring(math.ceil((wanted - left) / a_ms))} end
redis.call('HSET', KEYS[1], 'left', tostring(left - wanted), 'at_ms', now)
redis.call('PEXPIRE', KEYS[1], 120000)
return {'OK'}
