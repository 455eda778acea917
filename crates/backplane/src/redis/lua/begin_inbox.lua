-- begin_inbox: the first half of a new record, where one call may name one key only. Nothing where it is there.
--
-- KEYS  inbox
-- ARGV  retention in ms
-- Answer  the stamp of its last entry
local now = clock()
if call('EXISTS', KEYS[1]) == 0 then
  call('RPUSH', KEYS[1], stub(now))
  call('PEXPIREAT', KEYS[1], string.format('%.0f', floor(now / 1000) + life_ms(tonumber(ARGV[1]))))
end
return pack('>I8', stamp_of(call('LINDEX', KEYS[1], -1)))
