-- notify: tells every node where an address is. Nothing is written.
--
-- KEYS  meta of each notice
-- ARGV  publish command, channel prefix, then for each notice: address text and body
local function one_notice(i)
  local raw, seen = call('GET', KEYS[i]), {}
  if not raw then return end
  local m = parse(raw)
  each_location(m.tail, function(_, _, node)
    if not seen[node] then tell(node, ARGV[2 * i + 1], m.v, ARGV[2 * i + 2]) end
    seen[node] = true
  end)
end

for i = 1, #KEYS do pcall(one_notice, i) end
publish_told(ARGV[1], ARGV[2])
return 1
