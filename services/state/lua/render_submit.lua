-- Take a render on. Idempotent: the same order again changes nothing.
-- ARGV 1 digest of the order  2 uid  3 ms it may take  4 ms a final one is kept  5 script  6 prompt  7 portrait  8 voice
--      9... field, value of the record
-- Answers {'OK', 'new' | 'repeat'} or {'OTHER', ''}
local found = field('digest')
if found then
  if found ~= ARGV[1] then return {'OTHER', ''} end
  return {'OK', 'repeat'}
end
local ends = now + tonumber(ARGV[3])
redis.call('HSET', RECORD, 'digest', ARGV[1], 'uid', ARGV[2], 'state', 'queued', 'error', '', 'version', 1, 'owner', '',
  'created_ms', now, 'updated_ms', now, 'expire_ms', string.format('%.0f', ends), 'attempts', 0, 'chunks', 0,
  'media_s', '0', 'words', 0, 'waits', '', 'file', '', 'session', '')
for i = 9, #ARGV, 2 do redis.call('HSET', RECORD, ARGV[i], ARGV[i + 1]) end
redis.call('HSET', ASSETS, 'script', ARGV[5], 'prompt', ARGV[6], 'portrait', ARGV[7], 'voice', ARGV[8])
for _, key in ipairs({RECORD, ASSETS}) do redis.call('PEXPIREAT', key, string.format('%.0f', ends + tonumber(ARGV[4]))) end
return {'OK', 'new'}
