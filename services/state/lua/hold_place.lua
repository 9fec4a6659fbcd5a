-- Count a session among its tenant's live ones. Idempotent by session.
-- KEYS 1 live
-- ARGV 1 session id  2 most sessions  3 ms it lives at most  4... sessions that are known to have ended
-- Answers {'OK'} or {'FULL', ids of the live ones}
redis.replicate_commands()
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
for i = 4, #ARGV do redis.call('ZREM', KEYS[1], ARGV[i]) end
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
if not redis.call('ZSCORE', KEYS[1], ARGV[1]) then
  if redis.call('ZCARD', KEYS[1]) >= tonumber(ARGV[2]) then
    return {'FULL', unpack(redis.call('ZRANGE', KEYS[1], 0, -1))}
  end
end
redis.call('ZADD', KEYS[1], now + tonumber(ARGV[3]), ARGV[1])
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return {'OK'}
