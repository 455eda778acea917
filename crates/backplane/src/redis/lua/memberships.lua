-- memberships: which of some users are members, and since which change.
--
-- KEYS  meta, members
-- ARGV  users, at most 1,000
-- Answer  'M' and | version 8 | members 8 |, and the number of each one's join, 8 bytes, 0 for one who is none; or 'E' why
local function answer()
  local raw = call('GET', KEYS[1])
  local out = { 'M' .. pack('>I8I8', raw and parse(raw).v or 0, call('HLEN', KEYS[2])) }
  if #ARGV == 0 then return out[1] end
  for i, joined in ipairs(call('HMGET', KEYS[2], unpack(ARGV))) do
    out[i + 1] = pack('>I8', joined and unpack_struct('>I8', joined) or 0)
  end
  return concat(out)
end

local ok, said = pcall(answer)
return ok and said or 'E' .. sub(message(said), 1, 200)
