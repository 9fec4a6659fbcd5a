-- A session was moved: its slot is on the worker that has it now, and the one held for the move is that slot.
-- KEYS all of the fleet
-- ARGV 1 session id  2 worker id  3 name the slot was held under  4 ms it waits to be confirmed
place(ARGV[1], ARGV[2], now_ms() + tonumber(ARGV[4]))
redis.call('HDEL', PLACEMENTS, ARGV[3])
return {'OK'}
