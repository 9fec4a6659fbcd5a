-- Open sessions that no worker has had for a while.
-- KEYS all of the fleet
-- ARGV 1 ms without a worker  2 most to name
-- Answers {'OK', then for each: session id, ms since a worker last had it, or since it was created}
local now = now_ms()
local answer = {'OK'}
local found = redis.call('ZRANGEBYSCORE', OPEN, '-inf', now - tonumber(ARGV[1]), 'WITHSCORES', 'LIMIT', 0, ARGV[2])
for i = 1, #found, 2 do
  answer[#answer + 1] = found[i]
  answer[#answer + 1] = string.format('%.0f', now - tonumber(found[i + 1]))
end
return answer
