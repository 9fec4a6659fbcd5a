-- Cut the timeline: the head goes back, unplayed chunks retire, the generation rises, the transcript ends where it was
-- heard. Where to cut was worked out from the state with the generation and next chunk given here; if either has
-- changed since, nothing is done. Repeating a cut (same cut id) changes nothing.
-- KEYS all of one session
-- ARGV 1 epoch  2 generation  3 next chunk  4 cut id  5 head or empty  6 next position  7 pointer_token  8 pointer_word
--      9 token after the last word kept  10 cue cursor, of an interrupt, or empty  11 seconds heard of the head, or empty
--      12 pieces kept or empty for all  13 text of the last piece kept, or empty to leave it
--      14 prompt in force from now on, or empty to leave it
--      15 whether it is paused, '1' or '', of an interrupt
--      16 what users said that no committed chunk has, as JSON, of an interrupt
--      17 number of retired chunks  18... their indices, then accepted transcript pieces
-- Answers {'OK', generation}
local refused = refusal(ARGV[1])
if refused then return refused end
if field('cut_id') == ARGV[4] then return {'OK', field('generation')} end
if field('generation') ~= ARGV[2] or field('next_chunk') ~= ARGV[3] then
  return {'STALE_GENERATION', field('generation')}
end

local retired = tonumber(ARGV[17])
local indices = {unpack(ARGV, 18, 17 + retired)}
for _, index in ipairs(indices) do redis.call('XDEL', CHUNKS, string.format('%.0f-0', tonumber(index) + 1)) end
for _, name in ipairs(redis.call('HKEYS', LATENTS)) do
  for _, index in ipairs(indices) do
    if string.match(name, '^%d+') == index then redis.call('HDEL', LATENTS, name) end
  end
end
if ARGV[11] ~= '' then
  redis.call('HSET', LATENTS, ARGV[5] .. ':heard', ARGV[11])
  keep(LATENTS)
end
if ARGV[12] == '0' then
  redis.call('DEL', TRANSCRIPT)
elseif ARGV[12] ~= '' then
  redis.call('LTRIM', TRANSCRIPT, 0, tonumber(ARGV[12]) - 1)
  if ARGV[13] ~= '' then redis.call('LSET', TRANSCRIPT, -1, ARGV[13]) end
end
for i = 18 + retired, #ARGV do redis.call('RPUSH', TRANSCRIPT, ARGV[i]) end
redis.call('DEL', INPUTS)
local generation = redis.call('HINCRBY', RECORD, 'generation', 1)
redis.call('HSET', RECORD, 'cut_id', ARGV[4], 'head', ARGV[5], 'next_position', ARGV[6], 'pointer_token', ARGV[7],
  'pointer_word', ARGV[8], 'word_token', ARGV[9],
  'cut_position', ARGV[6], 'cut_word', ARGV[8], 'cut_retired', table.concat(indices, ' '))
if ARGV[14] ~= '' then redis.call('HSET', RECORD, 'prompt', ARGV[14]) end
if ARGV[10] ~= '' then
  redis.call('HSET', RECORD, 'cue_cursor', ARGV[10], 'is_interrupted', '1', 'is_paused', ARGV[15],
    'heard', ARGV[16])
  redis.call('XTRIM', CUES, 'MINID', string.format('%.0f-0', tonumber(ARGV[10]) + 1))
end
changed()
keep(TRANSCRIPT)
return {'OK', tostring(generation)}
