-- begin_meta: the second half of a new record. Nothing where it is there.
--
-- KEYS  meta
-- ARGV  retention in ms, epoch, stamp of the inbox's last entry, address text
if call('EXISTS', KEYS[1]) == 1 then return 0 end
local now = clock()
local m = begin(ARGV[2], now, life_ms(tonumber(ARGV[1])), ARGV[4])
m.last = unpack_struct('>I8', ARGV[3])
save(KEYS[1], m)
return 1
