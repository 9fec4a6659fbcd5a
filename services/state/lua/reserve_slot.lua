-- Reserve a slot for a session on the fullest worker that takes sessions; of equals, the lowest ordinal. A session keeps
-- the living worker it has, unless that one is excluded.
-- KEYS all of the fleet
-- ARGV 1 session id  2 bundle digest or empty  3 ms a heartbeat counts  4 ms a reservation waits  5... excluded workers
-- Answers {'OK', worker id, address} or {'FULL', number of living workers with this bundle}
local now = now_ms()
local excluded = {}
for i = 5, #ARGV do excluded[ARGV[i]] = true end

local living, used = {}, slots_used(now)
for _, id in ipairs(redis.call('ZRANGEBYSCORE', BEATS, now - tonumber(ARGV[3]), '+inf')) do
  local report = not excluded[id] and report_of(id) or nil
  if report then
    living[id] = report
    report.used = used[id] or 0
  end
end
local mine = placement_of(ARGV[1])
local has = mine and living[mine.worker]
if has then return {'OK', has.worker_id, has.address} end

-- worker-3 and worker-3-BOOT are ordinal 3.
local function ordinal(id) return tonumber(string.match(id, '%-(%d+)%-') or string.match(id, '%-(%d+)$')) or math.huge end
local function before(a, b)
  if a.used ~= b.used then return a.used > b.used end
  if ordinal(a.worker_id) ~= ordinal(b.worker_id) then return ordinal(a.worker_id) < ordinal(b.worker_id) end
  return a.worker_id < b.worker_id
end
local best, suited = nil, 0
for _, worker in pairs(living) do
  if ARGV[2] == '' or worker.bundle == ARGV[2] then
    suited = suited + 1
    if worker.is_ready and worker.used < worker.slots and (not best or before(worker, best)) then best = worker end
  end
end
if not best then return {'FULL', tostring(suited)} end
place(ARGV[1], best.worker_id, now + tonumber(ARGV[4]))
return {'OK', best.worker_id, best.address}
