-- Create a session. Idempotent by request id: a repeat only adds its attach token.
-- KEYS all of one session
-- ARGV 1 request id  2 token digest  3 life ms  4 keys outlive it by ms  5 portrait  6 voice  7... field, value of the record
-- Answers {'OK', 'new' | 'repeat', created_ms}
local found = redis.call('HMGET', RECORD, 'request_id', 'token_digests', 'created_ms')
if found[1] then
  if found[1] ~= ARGV[1] then return {'EXISTS', ''} end
  local kept = {}
  for digest in string.gmatch(found[2] .. ' ' .. ARGV[2], '%S+') do
    if kept[#kept] ~= digest then kept[#kept + 1] = digest end
  end
  local newest = {}
  for i = math.max(1, #kept - 3), #kept do newest[#newest + 1] = kept[i] end
  redis.call('HSET', RECORD, 'token_digests', table.concat(newest, ' '))
  return {'OK', 'repeat', found[3]}
end
local now = now_ms()
local ends = now + tonumber(ARGV[3])
redis.call('HSET', RECORD,
  'request_id', ARGV[1], 'token_digests', ARGV[2], 'state', 'pending', 'error', '', 'version', 1,
  'created_ms', now, 'expire_ms', ends, 'keep_until_ms', ends + tonumber(ARGV[4]),
  'epoch', 0, 'owner', '', 'generation', 0, 'next_chunk', 0, 'next_position', 0, 'head', '', 'sink', '',
  'pointer_token', '0', 'pointer_word', 0, 'word_token', 0, 'cue_cursor', 0, 'last_client_seq', 0, 'cut_id', '', 'prompt', '',
  'history_chunks', 1, 'oldest_chunk', 0)
for i = 7, #ARGV, 2 do redis.call('HSET', RECORD, ARGV[i], ARGV[i + 1]) end
redis.call('HSET', ASSETS, 'portrait', ARGV[5], 'voice', ARGV[6])
keep(RECORD, ASSETS)
return {'OK', 'new', tostring(now)}
