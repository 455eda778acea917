-- mark: moves read marks forward. Only a place of the inbox counts, and none goes back.
--
-- KEYS  meta, inbox and cursors of each request
-- ARGV  for each request: field, cursor 24, fields of this record at the most
-- Answer  for each request | 1 moved |, | 2 behind | cursor 24 |, | 3 no room |, | 10 + reason, no place |, or | 255 why |
local function one_request(key, at)
  local meta, inbox, cursors = KEYS[key], KEYS[key + 1], KEYS[key + 2]
  local field, cursor, fields_max = ARGV[at], ARGV[at + 1], tonumber(ARGV[at + 2])
  local m, length = load_record(meta, inbox)
  if not m then return string.char(10 + EPOCH) end
  local why = check(m, length, inbox, cursor)
  if why then return string.char(10 + why) end
  local stored = call('HGET', cursors, field)
  if stored then
    local is_held = not check(m, length, inbox, stored)
    if is_held and unpack_struct('>I8', stored, 9) >= unpack_struct('>I8', cursor, 9) then return '\2' .. stored end
  elseif call('HLEN', cursors) >= fields_max then
    return '\3'
  end
  call('HSET', cursors, field, cursor)
  if not stored then call('PEXPIREAT', cursors, string.format('%.0f', m.expiry)) end
  return '\1'
end

local answers, at = {}, 1
for key = 1, #KEYS, 3 do
  local ok, answer = pcall(one_request, key, at)
  answers[#answers + 1] = ok and answer or '\255' .. sub(message(answer), 1, 200)
  at = at + 3
end
return answers
