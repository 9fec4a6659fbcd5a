-- Puts a decision in the place of the one it was made from, unless another came first.
-- KEYS 1 decision
-- ARGV 1 version it was made from  2 the new one as JSON
local known = redis.call('GET', KEYS[1])
local version = known and cjson.decode(known).version or 0
if version ~= tonumber(ARGV[1]) then
  return {'LATE'}
end
redis.call('SET', KEYS[1], ARGV[2])
return {'OK'}
