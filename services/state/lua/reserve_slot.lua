-- Reserve a slot for a session on the fullest worker that takes sessions; of equals, the lowest ordinal. A session keeps
-- the living worker it has, unless that one is excluded. Renders get what watched sessions leave, on the emptiest worker,
-- and are not counted where a watched session is placed: they make way for it.
-- KEYS all of the fleet
-- ARGV 1 session id  2 bundle digest or empty  3 layout of its state  4 ms a heartbeat counts  5 ms a reservation waits
--   6... excluded workers
-- Answers {'OK', worker id, address} or {'FULL', number of living workers with this bundle and layout}
local now = now_ms()
local excluded = {}
for i = 6, #ARGV do excluded[ARGV[i]] = true end

local renders_too = is_render(ARGV[1])
local living, watched, renders = {}, slots_used(now)
for _, id in ipairs(redis.call('ZRANGEBYSCORE', BEATS, now - tonumber(ARGV[4]), '+inf')) do
  local report = not excluded[id] and report_of(id) or nil
  if report then
    living[id] = report
    report.renders = renders[id] or 0
    report.used = (watched[id] or 0) + (renders_too and report.renders or 0)
  end
end
local mine = placement_of(ARGV[1])
local has = mine and living[mine.worker]
if has then return {'OK', has.worker_id, has.address} end

-- worker-3 and worker-3-BOOT are ordinal 3, whatever numbers stand before it.
local function ordinal(id) return tonumber(string.match(id, '^.*%-(%d+)%-') or string.match(id, '%-(%d+)$')) or math.huge end
local function before(a, b)
  if a.used ~= b.used then return (a.used > b.used) ~= renders_too end
  if ordinal(a.worker_id) ~= ordinal(b.worker_id) then return ordinal(a.worker_id) < ordinal(b.worker_id) end
  return a.worker_id < b.worker_id
end
local function has_room(worker)
  local may = not renders_too or worker.renders < (tonumber(worker.render_slots) or 0)
  return worker.is_ready and worker.used < worker.slots and may
end
local best, suited = nil, 0
for _, worker in pairs(living) do
  -- A worker of before the first change of the layout does not name it.
  local reads_it = (tonumber(worker.state_schema) or 1) == tonumber(ARGV[3])
  if reads_it and (ARGV[2] == '' or worker.bundle == ARGV[2]) then
    suited = suited + 1
    if has_room(worker) and (not best or before(worker, best)) then best = worker end
  end
end
if not best then return {'FULL', tostring(suited)} end
place(ARGV[1], best.worker_id, now + tonumber(ARGV[5]))
return {'OK', best.worker_id, best.address}
