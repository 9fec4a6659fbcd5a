-- Lay down the latents of a chunk under (chunk, epoch). Nobody sees them before the commit points at them.
-- KEYS all of one session
-- ARGV 1 epoch  2 chunk_index  3 video  4 audio
local refused = refusal(ARGV[1])
if refused then return refused end
if tonumber(ARGV[2]) < tonumber(field('next_chunk')) then return {'CONFLICT', 'chunk ' .. ARGV[2] .. ' exists'} end
local prefix = ARGV[2] .. ':' .. ARGV[1]
redis.call('HSET', LATENTS, prefix .. ':v', ARGV[3], prefix .. ':a', ARGV[4])
keep(LATENTS)
return {'OK'}
