-- bury: declares a node dead, if its counter still is what the observer saw. Death is final: the name never counts again.
--
-- KEYS  nodes, dead
-- ARGV  node, the counter that did not move
-- Answer  1 if it is dead by this call
if call('HGET', KEYS[1], ARGV[1]) ~= ARGV[2] then return 0 end
call('HDEL', KEYS[1], ARGV[1])
call('HSET', KEYS[2], ARGV[1], string.format('%.0f', floor(clock() / 1000)))
call('EXPIRE', KEYS[2], 86400)
return 1
