-- reap: removes every location of a dead node from some addresses.
--
-- KEYS  located-at of the node in this partition, then the meta of each address
-- ARGV  node, then the text of each address
-- Answer  how many records had a location of it
local node, changed = ARGV[1], 0
for i = 2, #KEYS do
  local ok = pcall(function()
    local raw = call('GET', KEYS[i])
    if not raw then return end
    if keep_locations(KEYS[i], parse(raw), function(_, _, n) return n ~= node end) then changed = changed + 1 end
  end)
  -- A record that cannot be read is left as it is, but not asked for again and again.
  call('SREM', KEYS[1], ARGV[i])
end
return changed
