-- unwatch: this node does not want to hear of these users any more.
--
-- KEYS  watchers of each user
-- ARGV  node
for i = 1, #KEYS do pcall_redis('HDEL', KEYS[i], ARGV[1]) end
return 1
