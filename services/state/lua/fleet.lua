-- Stands before every script of the fleet. KEYS in all of them: 1 workers  2 beats  3 placements  4 open sessions
-- One entry that is not what it must be is passed over: it must not hold up all the others.
local WORKERS, BEATS, PLACEMENTS, OPEN = unpack(KEYS)

local function now_ms()
  redis.replicate_commands() -- Redis 6 writes after TIME only with effects replication; later ones always have it
  local time = redis.call('TIME')
  return tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
end

local function read(text, kinds)
  local is_json, value = pcall(cjson.decode, text)
  if not is_json or type(value) ~= 'table' then return nil end
  for name, kind in pairs(kinds) do
    if type(value[name]) ~= kind then return nil end
  end
  return value
end

-- What a worker last said of itself; nil when it is unknown, or has said what cannot be.
local function report_of(id)
  local text = redis.call('HGET', WORKERS, id)
  local report = text and read(text,
    {worker_id = 'string', address = 'string', slots = 'number', bundle = 'string', is_ready = 'boolean'})
  if not report or report.worker_id ~= id then return nil end
  return (report.free_in_s == nil or type(report.free_in_s) == 'number') and report or nil
end

local function placement(text) return read(text, {worker = 'string', until_ms = 'number'}) end

-- The slot of a session, {worker, until_ms}; nil when it has none.
local function placement_of(session)
  local text = redis.call('HGET', PLACEMENTS, session)
  return text and placement(text) or nil
end

local function place(session, worker, until_ms)
  redis.call('HSET', PLACEMENTS, session, cjson.encode({worker = worker, until_ms = until_ms}))
end

-- All placements as {session, {worker, until_ms} or nil}.
local function placed()
  local found, all = {}, redis.call('HGETALL', PLACEMENTS)
  for i = 1, #all, 2 do found[#found + 1] = {all[i], placement(all[i + 1])} end
  return found
end

local function is_render(session) return string.sub(session, 1, 7) == 'render-' end

-- How many slots of each worker are confirmed, or reserved and waiting: by watched sessions, and by renders.
local function slots_used(now)
  local watched, renders = {}, {}
  for _, entry in ipairs(placed()) do
    local session, slot = unpack(entry, 1, 2)
    if slot and (slot.until_ms == 0 or slot.until_ms > now) then
      local used = is_render(session) and renders or watched
      used[slot.worker] = (used[slot.worker] or 0) + 1
    end
  end
  return watched, renders
end

