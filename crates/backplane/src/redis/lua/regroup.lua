-- regroup: changes users' sets of groups, and tells the nodes where those users are.
--
-- KEYS  meta and set of each request
-- ARGV  deadline in us, groups at the most, publish command, channel prefix, then for each request: address text, group,
--       '1' to put it in or '0' to take it out
-- Answer  { 'S' and | now 8 | }: stale, nothing done, ever. { 'R' and | now 8 | }, and for each request | 1 |, | 0 full |,
--       or | 255 why |
local now = clock()
if now > tonumber(ARGV[1]) then return { 'S' .. pack('>I8', now) } end
local groups_max = tonumber(ARGV[2])

-- The metas of users whose set is another one, by their address, and the addresses in order.
local changed, order = {}, {}

local function one_request(key, at)
  local meta, set, of, group, is_in = KEYS[key], KEYS[key + 1], ARGV[at], ARGV[at + 1], ARGV[at + 2] == '1'
  if (call('HEXISTS', set, group) == 1) == is_in then return '\1' end
  if is_in and call('HLEN', set) >= groups_max then return '\0' end
  local raw = call('GET', meta)
  local m = raw and parse(raw)
  if is_in then call('HSET', set, group, '') else call('HDEL', set, group) end
  -- Without a record nobody is there who has to hear of it.
  if m then
    m.v = max(now, m.v + 1)
    save(meta, m)
    if not changed[of] then order[#order + 1] = of end
    changed[of] = m
  end
  return '\1'
end

local answers, at = { 'R' .. pack('>I8', now) }, 5
for key = 1, #KEYS, 2 do
  local ok, answer = pcall(one_request, key, at)
  answers[#answers + 1] = ok and answer or '\255' .. sub(message(answer), 1, 200)
  at = at + 3
end

-- What was written is answered, whatever the locations are.
for _, of in ipairs(order) do pcall(tell_all, of, changed[of], 'g') end
publish_told(ARGV[3], ARGV[4])
return answers
