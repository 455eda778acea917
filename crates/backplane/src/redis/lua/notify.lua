-- notify: tells every node where an address is. Nothing is written.
--
-- KEYS  meta of each notice
-- ARGV  publish command, channel prefix, then for each notice: address text and body
local function one_notice(i)
  local raw = call('GET', KEYS[i])
  if raw then tell_all(ARGV[2 * i + 1], parse(raw), ARGV[2 * i + 2]) end
end

for i = 1, #KEYS do pcall(one_notice, i) end
publish_told(ARGV[1], ARGV[2])
return 1
