-- Write down what decides the next chunk. The first writer wins: a redo gets what is there.
-- KEYS all of one session
-- ARGV 1 epoch  2 generation  3 chunk_index  4 parent or empty  5 position  6 inputs as JSON
-- Answers {'OK', inputs that hold}
local refused = refusal(ARGV[1])
if refused then return refused end
if field('generation') ~= ARGV[2] then return {'STALE_GENERATION', field('generation')} end
if field('next_chunk') ~= ARGV[3] then return {'CONFLICT', 'the next chunk is ' .. field('next_chunk')} end
if field('head') ~= ARGV[4] then return {'CONFLICT', 'the head is ' .. field('head')} end
if field('next_position') ~= ARGV[5] then return {'CONFLICT', 'the next position is ' .. field('next_position')} end
local present = redis.call('GET', INPUTS)
if present then return {'OK', present} end
redis.call('SET', INPUTS, ARGV[6])
keep(INPUTS)
return {'OK', ARGV[6]}
