-- reap: removes every location of a dead node from some addresses, and says of each user who was nowhere else that he is
-- gone.
--
-- KEYS  located-at of the node in this partition, then meta, presence and watchers of each address; meta in the place of
--       what is not to be named
-- ARGV  node, publish command, channel prefix, then the text of each address
-- Answer  how many records had a location of it
local node, changed, now = ARGV[1], 0, clock()
for i = 4, #ARGV do
  local key = 3 * i - 10
  local keys = { meta = KEYS[key], presence = KEYS[key + 1], watchers = KEYS[key + 2] }
  pcall(function()
    local raw = call('GET', keys.meta)
    local m = raw and parse(raw)
    if m and keep_locations(keys.meta, m, function(_, _, n) return n ~= node end) then changed = changed + 1 end
    settle_presence(keys, ARGV[i], m and m.tail or '', m and m.v or 0, now)
  end)
  -- A record that cannot be read is left as it is, but not asked for again and again.
  call('SREM', KEYS[1], ARGV[i])
end
publish_told(ARGV[2], ARGV[3])
return changed
