-- Reserve a slot for a session on the fullest worker that takes sessions; of equals, the lowest ordinal. A session keeps
-- the living worker it has, unless that one is excluded.
-- KEYS 1 workers  2 beats  3 placements
-- ARGV 1 session id  2 bundle digest or empty  3 ms a heartbeat counts  4 ms a reservation waits  5... excluded workers
-- Answers {'OK', worker id, address} or {'FULL', number of living workers with this bundle}
redis.replicate_commands()
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local excluded = {}
for i = 5, #ARGV do excluded[ARGV[i]] = true end

local living = {}
for _, id in ipairs(redis.call('ZRANGEBYSCORE', KEYS[2], now - tonumber(ARGV[3]), '+inf')) do
  local report = redis.call('HGET', KEYS[1], id)
  if report and not excluded[id] then
    living[id] = cjson.decode(report)
    living[id].used = 0
  end
end
local mine = redis.call('HGET', KEYS[3], ARGV[1])
if mine then
  local worker = living[cjson.decode(mine).worker]
  if worker then return {'OK', worker.worker_id, worker.address} end
end
local placements = redis.call('HGETALL', KEYS[3])
for i = 1, #placements, 2 do
  local placed = cjson.decode(placements[i + 1])
  local worker = living[placed.worker]
  if worker and (placed.until_ms == 0 or placed.until_ms > now) then worker.used = worker.used + 1 end
end

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
redis.call('HSET', KEYS[3], ARGV[1], cjson.encode({worker = best.worker_id, until_ms = now + tonumber(ARGV[4])}))
return {'OK', best.worker_id, best.address}
