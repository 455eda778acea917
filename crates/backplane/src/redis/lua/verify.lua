-- verify: where cursors stand; puts a location back that was lost, and says again whether a user is here where that was lost.
--
-- KEYS  meta, inbox, cursors, located-at, presence and watchers of each request; meta in the place of what is not to be named
-- ARGV  retention in ms, publish command, channel prefix, then for each request: address text, node, connection 8, reg,
--       device, cursor 24
-- Answer  for each request: | standing 1 | version 8 | locations 17 each |, standing 0 current, 1 behind, 2 gone, 10 + reason
--       forked; or | 255 why |
local now = clock()
local life = life_ms(tonumber(ARGV[1]))

local function one_request(key, at)
  local keys = { meta = KEYS[key], inbox = KEYS[key + 1], cursors = KEYS[key + 2], located = KEYS[key + 3],
    presence = KEYS[key + 4], watchers = KEYS[key + 5] }
  local record, node, connection, reg, device, cursor =
    ARGV[at], ARGV[at + 1], ARGV[at + 2], tonumber(ARGV[at + 3]), ARGV[at + 4], ARGV[at + 5]
  local m, length = load_record(keys.meta, keys.inbox)
  if not m then return '\2' .. pack('>I8', 0) end
  local why = check(m, length, keys.inbox, cursor)
  local is_end = not why and unpack_struct('>I8', cursor, 9) == m.b + length - 1
  local ok, is_moved = pcall(locate, m, keys, register(m.tail, reg, connection, node, device), record, now, life, false)
  if ok then pcall(settle_presence, keys, record, m.tail, m.v, now, nil, is_moved) end
  -- Appends may be what moves the expiry of this record, for days.
  if ok and keys.located ~= keys.meta and call('TTL', keys.located) < 43200 then pcall(note_located, keys, record) end
  return string.char(why and 10 + why or (is_end and 0 or 1)) .. pack('>I8', m.v) .. registered(m.tail, node)
end

local answers, at = {}, 4
for key = 1, #KEYS, 6 do
  local ok, answer = pcall(one_request, key, at)
  answers[#answers + 1] = ok and answer or '\255' .. sub(message(answer), 1, 200)
  at = at + 6
end
publish_told(ARGV[2], ARGV[3])
return answers
