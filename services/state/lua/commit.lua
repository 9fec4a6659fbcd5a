-- Make a chunk exist: all of it or nothing. Repeating a commit under the same epoch changes nothing.
-- KEYS all of one session
-- ARGV 1 epoch  2 generation  3 chunk_index  4 parent or empty  5 position  6 commit as JSON  7 pointer_token
--      8 pointer_word  9 token after the last word spoken, or empty  10 cue cursor  11 chunks kept with video
--      12 chunks kept with audio  13 prompt in force  14 the planner's memory
--      15... accepted transcript pieces
local refused = refusal(ARGV[1])
if refused then return refused end
local epoch, index = ARGV[1], ARGV[3]
local id = string.format('%.0f-0', tonumber(index) + 1)
local present = redis.call('XRANGE', CHUNKS, id, id)[1]
if present then
  local entry = named(present)
  if entry.epoch == epoch and entry.commit == ARGV[6] then return {'OK'} end
end
if field('generation') ~= ARGV[2] then return {'STALE_GENERATION', field('generation')} end
if field('next_chunk') ~= index then return {'CONFLICT', 'the next chunk is ' .. field('next_chunk')} end
if field('head') ~= ARGV[4] then return {'CONFLICT', 'the head is ' .. field('head')} end
if field('next_position') ~= ARGV[5] then return {'CONFLICT', 'the next position is ' .. field('next_position')} end
local latents = index .. ':' .. epoch
if redis.call('HEXISTS', LATENTS, latents .. ':v') + redis.call('HEXISTS', LATENTS, latents .. ':a') < 2 then
  return {'CONFLICT', 'its latents were not put'}
end

local before = redis.call('HMGET', RECORD, 'pointer_token', 'pointer_word', 'word_token', 'state')
redis.call('XADD', CHUNKS, id, 'commit', ARGV[6], 'epoch', epoch,
  'pointer_before', before[1], 'word_before', before[2], 'word_token_before', before[3])
for i = 15, #ARGV do redis.call('RPUSH', TRANSCRIPT, ARGV[i]) end
redis.call('HSET', RECORD, 'next_chunk', string.format('%.0f', tonumber(index) + 1), 'head', index,
  'next_position', string.format('%.0f', tonumber(ARGV[5]) + 1), 'pointer_token', ARGV[7], 'pointer_word', ARGV[8],
  'cue_cursor', ARGV[10], 'state', 'active', 'prompt', ARGV[13], 'memory', ARGV[14], 'is_interrupted', '',
  'is_paused', '', 'heard', '') -- what is paused makes no chunk, and what was said before an interrupt is this one's
if ARGV[9] ~= '' then redis.call('HSET', RECORD, 'word_token', ARGV[9]) end
if ARGV[4] == '' then redis.call('HSET', RECORD, 'sink', latents) end
redis.call('DEL', INPUTS)
redis.call('XTRIM', CUES, 'MINID', string.format('%.0f-0', tonumber(ARGV[10]) + 1))

-- Retention: the sink, the audio of the newest chunks, the video of fewer; everything else goes, left-overs included.
local newest = redis.call('XREVRANGE', CHUNKS, '+', '-', 'COUNT', ARGV[12])
redis.call('XTRIM', CHUNKS, 'MINID', newest[#newest][1])
local kept = {[field('sink') .. ':v'] = true}
local is_whole = true
for age, entry in ipairs(newest) do
  local chunk = string.format('%.0f', tonumber(string.match(entry[1], '^%d+')) - 1)
  local name = chunk .. ':' .. named(entry).epoch
  kept[name .. ':a'] = true
  kept[chunk .. ':heard'] = true
  if age <= tonumber(ARGV[11]) then
    kept[name .. ':v'] = true
    is_whole = is_whole and redis.call('HEXISTS', LATENTS, name .. ':v') == 1
    if is_whole then redis.call('HSET', RECORD, 'oldest_chunk', chunk) end
  end
end
for _, name in ipairs(redis.call('HKEYS', LATENTS)) do
  if not kept[name] then redis.call('HDEL', LATENTS, name) end
end
changed()
keep(CHUNKS, TRANSCRIPT)
return {'OK'}
