-- detach: removes exactly the registrations that are named: never one that came after, never another connection's. Whoever
-- watches a user hears of it, if no other location of his is left.
--
-- KEYS  meta, located-at, presence and watchers of each request; meta in the place of what is not to be named
-- ARGV  publish command, channel prefix, then for each request: address text, node, connection 8, reg
-- Answer  for each request the locations of that node that are left, or | 255 why |
local now = clock()

local function one_request(key, at)
  local keys = { meta = KEYS[key], located = KEYS[key + 1], presence = KEYS[key + 2], watchers = KEYS[key + 3] }
  local record, node, connection, reg = ARGV[at], ARGV[at + 1], ARGV[at + 2], tonumber(ARGV[at + 3])
  local raw = call('GET', keys.meta)
  local m = raw and parse(raw)
  local left = ''
  if m then
    keep_locations(keys.meta, m, function(there, c, n) return c ~= connection or n ~= node or there > reg end)
    left = registered(m.tail, node)
  end
  if left == '' and keys.located ~= keys.meta then call('SREM', keys.located, record) end
  pcall(settle_presence, keys, record, m and m.tail or '', m and m.v or 0, now)
  return left
end

local answers, at = {}, 3
for key = 1, #KEYS, 4 do
  local ok, answer = pcall(one_request, key, at)
  answers[#answers + 1] = ok and answer or '\255' .. sub(message(answer), 1, 200)
  at = at + 4
end
publish_told(ARGV[1], ARGV[2])
return answers
