-- agree: what a fleet holds to; the first node says it, for good.
--
-- KEYS  fleet
-- ARGV  what this node would say
-- Answer  what was said
local said = call('GET', KEYS[1])
if said then return said end
call('SET', KEYS[1], ARGV[1])
return ARGV[1]
