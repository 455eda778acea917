-- verify: where cursors stand; puts a location back that was lost.
--
-- KEYS  meta, inbox, cursors and located-at of each request
-- ARGV  retention in ms, then for each request: address text, node, connection 8, reg, device, cursor 24
-- Answer  for each request: | standing 1 | locations 16 each |, standing 0 current, 1 behind, 2 gone, 10 + reason forked;
--       or | 255 why |
local now = clock()
local life = life_ms(tonumber(ARGV[1]))

local function one_request(key, at)
  local meta, inbox, cursors, located = KEYS[key], KEYS[key + 1], KEYS[key + 2], KEYS[key + 3]
  local record, node, connection, reg, device, cursor =
    ARGV[at], ARGV[at + 1], ARGV[at + 2], tonumber(ARGV[at + 3]), ARGV[at + 4], ARGV[at + 5]
  local m, length = load_record(meta, inbox)
  if not m then return '\2' end
  local why = check(m, length, inbox, cursor)
  local is_end = not why and unpack_struct('>I8', cursor, 9) == m.b + length - 1
  local keys = { meta = meta, inbox = inbox, cursors = cursors, located = located }
  pcall(locate, m, keys, register(m.tail, reg, connection, node, device), record, now, life, false)
  return string.char(why and 10 + why or (is_end and 0 or 1)) .. registered(m.tail, node)
end

local answers, at = {}, 2
for key = 1, #KEYS, 4 do
  local ok, answer = pcall(one_request, key, at)
  answers[#answers + 1] = ok and answer or '\255' .. sub(message(answer), 1, 200)
  at = at + 6
end
return answers
