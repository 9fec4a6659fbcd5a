-- Stands before every script of a session. KEYS in all of them, in the order of SessionKeys:
--   1 record  2 assets  3 lease  4 cues  5 chunks  6 transcript  7 inputs  8 latents
-- A script answers {'OK', ...} or {name of a refusal, detail}; it refuses before it writes anything.
local RECORD, ASSETS, LEASE, CUES, CHUNKS, TRANSCRIPT, INPUTS, LATENTS = unpack(KEYS)

local function field(name) return redis.call('HGET', RECORD, name) end

local function now_us()
  redis.replicate_commands() -- Redis 6 writes after TIME only with effects replication; later ones always have it
  local time = redis.call('TIME')
  return tonumber(time[1]) * 1e6 + tonumber(time[2])
end

local function now_ms() return math.floor(now_us() / 1000) end

-- One above the present, and above any given out before now, whatever was lost: from the clock, in 1/1024 ms.
local function next_epoch(present)
  return string.format('%.0f', math.max(tonumber(present) + 1, math.floor(now_us() * 1.024)))
end

-- A refusal when the session is gone or has ended, or when `epoch` (if given) is not the present one; else nil.
local function refusal(epoch)
  local state = field('state')
  if not state then return {'GONE', ''} end
  if state == 'closed' or state == 'failed' then return {'CLOSED', state} end
  local present = field('epoch')
  if epoch and present ~= epoch then return {'STALE_EPOCH', present} end
  return nil
end

local function changed() redis.call('HINCRBY', RECORD, 'version', 1) end

-- Keys made during the session end with it.
local function keep(...)
  local until_ms = field('keep_until_ms')
  for _, key in ipairs({...}) do redis.call('PEXPIREAT', key, until_ms) end
end

-- The session is over, for ever. Portrait and voice are large, and of no use any more.
local function finish(state, error, keep_ms)
  redis.call('HSET', RECORD, 'state', state, 'error', error)
  changed()
  redis.call('DEL', LEASE, ASSETS)
  for _, key in ipairs(KEYS) do redis.call('PEXPIRE', key, keep_ms) end
end

-- The fields of one stream entry, by name.
local function named(entry)
  local fields = {}
  for i = 1, #entry[2], 2 do fields[entry[2][i]] = entry[2][i + 1] end
  return fields
end
