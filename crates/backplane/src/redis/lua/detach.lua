-- detach: removes exactly the registrations that are named: never one that came after, never another connection's.
--
-- KEYS  meta and located-at of each request
-- ARGV  for each request: address text, node, connection 8, reg
-- Answer  for each request the locations of that node that are left, or | 255 why |
local function one_request(key, at)
  local meta, located = KEYS[key], KEYS[key + 1]
  local record, node, connection, reg = ARGV[at], ARGV[at + 1], ARGV[at + 2], tonumber(ARGV[at + 3])
  local raw = call('GET', meta)
  local left = ''
  if raw then
    local m = parse(raw)
    keep_locations(meta, m, function(there, c, n) return c ~= connection or n ~= node or there > reg end)
    left = registered(m.tail, node)
  end
  if left == '' and located ~= meta then call('SREM', located, record) end
  return left
end

local answers, at = {}, 1
for key = 1, #KEYS, 2 do
  local ok, answer = pcall(one_request, key, at)
  answers[#answers + 1] = ok and answer or '\255' .. sub(message(answer), 1, 200)
  at = at + 4
end
return answers
