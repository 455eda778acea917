-- heartbeat: counts for one node, and reads everybody's count. A node that was declared dead counts no more.
--
-- KEYS  nodes, dead
-- ARGV  node, its counter and what else it says of itself
-- Answer  an array: '1' if this node is dead, else '0'; then names and counters in turn
if call('HEXISTS', KEYS[2], ARGV[1]) == 1 then return { '1' } end
call('HSET', KEYS[1], ARGV[1], ARGV[2])
local out = call('HGETALL', KEYS[1])
table.insert(out, 1, '0')
return out
