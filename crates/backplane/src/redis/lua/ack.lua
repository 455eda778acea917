-- ack: devices have everything up to a cursor. Only a place of the inbox counts, and none goes back. A place in everybody's
-- stream (a field that begins with /all/) is another record's: of two the one that was stored later counts.
--
-- KEYS  meta, inbox and cursors of each request
-- ARGV  for each request: field, cursor 24, how many fields the record may have
-- Answer  how many were stored
local function one_request(key, at)
  local meta, inbox, cursors, field, cursor = KEYS[key], KEYS[key + 1], KEYS[key + 2], ARGV[at], ARGV[at + 1]
  local is_foreign = sub(field, 1, 5) == '/all/'
  local m, length = load_record(meta, inbox)
  if not m or (not is_foreign and check(m, length, inbox, cursor)) then return 0 end
  local stored = call('HGET', cursors, field)
  if stored and is_foreign then
    if unpack_struct('>I8', stored, 17) > unpack_struct('>I8', cursor, 17) then return 0 end
  elseif stored then
    local is_held = not check(m, length, inbox, stored)
    if is_held and unpack_struct('>I8', stored, 9) >= unpack_struct('>I8', cursor, 9) then return 0 end
  elseif call('HLEN', cursors) >= tonumber(ARGV[at + 2]) then
    return 0
  end
  call('HSET', cursors, field, cursor)
  if not stored then call('PEXPIREAT', cursors, string.format('%.0f', m.expiry)) end
  return 1
end

local done, at = 0, 1
for key = 1, #KEYS, 3 do
  local ok, count = pcall(one_request, key, at)
  if ok then done = done + count end
  at = at + 3
end
return done
