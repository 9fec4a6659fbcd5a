-- End a render that is not final. Its holder, if there is one, learns it with its next report.
-- ARGV 1 ms a final one is kept
-- Answers {'OK', 'new' | 'repeat'}
local state = field('state')
if not state then return {'NO_RENDER', ''} end
if is_final(state) then return {'OK', 'repeat'} end
finish('cancelled', ARGV[1])
return {'OK', 'new'}
