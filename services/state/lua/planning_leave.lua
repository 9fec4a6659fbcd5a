-- An orchestrator goes.
-- KEYS 1 reports  2 beats
-- ARGV 1 replica id
redis.call('HDEL', KEYS[1], ARGV[1])
redis.call('ZREM', KEYS[2], ARGV[1])
return {'OK'}
