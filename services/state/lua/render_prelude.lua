-- Stands before every script of a render. KEYS in all of them, in the order of RenderKeys: 1 record  2 assets  3 lease
-- A script answers {'OK', ...} or {name of a refusal, detail}; it refuses before it writes anything.
local RECORD, ASSETS, LEASE = unpack(KEYS)
redis.replicate_commands() -- Redis 6 writes after TIME only with effects replication; later ones always have it
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)

local function field(name) return redis.call('HGET', RECORD, name) end

local function is_final(state) return state == 'succeeded' or state == 'failed' or state == 'cancelled' end

-- A refusal when the render is gone or has ended; else nil.
local function refusal()
  local state = field('state')
  if not state then return {'NO_RENDER', ''} end
  if is_final(state) then return {'ENDED', state} end
  return nil
end

local function set(...)
  redis.call('HSET', RECORD, 'updated_ms', now, ...)
  redis.call('HINCRBY', RECORD, 'version', 1)
end

-- End it: the record stays for a while, what decided the file goes at once.
local function finish(state, keep_ms, ...)
  set('state', state, 'expire_ms', string.format('%.0f', now + tonumber(keep_ms)), 'waits', '', ...)
  redis.call('DEL', ASSETS, LEASE)
  redis.call('PEXPIRE', RECORD, keep_ms)
end
