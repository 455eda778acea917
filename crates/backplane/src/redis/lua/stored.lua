-- stored: a device's acknowledged cursor, '' if there is none.
--
-- KEYS  cursors
-- ARGV  device
return call('HGET', KEYS[1], ARGV[1]) or ''
