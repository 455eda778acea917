-- stored: what one hash has under a name, '' if it has nothing; or all its names.
--
-- KEYS  hash
-- ARGV  name, or nothing for all names
if not ARGV[1] then return call('HKEYS', KEYS[1]) end
return call('HGET', KEYS[1], ARGV[1]) or ''
