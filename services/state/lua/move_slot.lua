-- A session was moved: its slot is on the worker that has it now, and the one held for the move is that slot.
-- KEYS 1 workers  2 beats  3 placements
-- ARGV 1 session id  2 worker id  3 name the slot was held under  4 ms it waits to be confirmed
redis.replicate_commands()
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
redis.call('HSET', KEYS[3], ARGV[1], cjson.encode({worker = ARGV[2], until_ms = now + tonumber(ARGV[4])}))
redis.call('HDEL', KEYS[3], ARGV[3])
return {'OK'}
