-- ack: devices have everything up to a cursor. Only a place of the inbox counts, and none goes back.
--
-- KEYS  meta, inbox and cursors of each request
-- ARGV  devices at the most, then for each request: device, cursor 24
-- Answer  how many were stored
local devices_max = tonumber(ARGV[1])

local function one_request(key, at)
  local meta, inbox, cursors, device, cursor = KEYS[key], KEYS[key + 1], KEYS[key + 2], ARGV[at], ARGV[at + 1]
  local m, length = load_record(meta, inbox)
  if not m or check(m, length, inbox, cursor) then return 0 end
  local stored = call('HGET', cursors, device)
  if stored then
    local is_held = not check(m, length, inbox, stored)
    if is_held and unpack_struct('>I8', stored, 9) >= unpack_struct('>I8', cursor, 9) then return 0 end
  elseif call('HLEN', cursors) >= devices_max then
    return 0
  end
  call('HSET', cursors, device, cursor)
  if not stored then call('PEXPIREAT', cursors, string.format('%.0f', m.expiry)) end
  return 1
end

local done, at = 0, 2
for key = 1, #KEYS, 3 do
  local ok, count = pcall(one_request, key, at)
  if ok then done = done + count end
  at = at + 2
end
return done
