-- attach and read: where a stream goes on from, its first page, and (attach) the location; one step, so that either an
-- append sees the location or the attach sees the append.
--
-- KEYS  meta, inbox, cursors and located-at of each request; meta in the place of the last two while a slot is on its way
-- ARGV  retention in ms, messages and bytes of a page, then for each request: address text, epoch, node ('' to read only),
--       connection 8, reg, device ('' without), from ('o' or 'n'), count of cursors, and these, newest first: epoch, seq
--       and stamp as 24 bytes, or '' for one that cannot be read
-- Answer  for each request an array: a head, and the entries of the page. Heads:
--       | 'A' | start 1 | reason 1 | lost 8 | epoch 8 | seq 8 | stamp 8 | head 8 | more 1 | routed 1 | locations 16 each |,
--       | 'G' | no record (read), | 'E' why |
local now = clock()
local retention, count_max, bytes_max = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local life = life_ms(retention)
local NEW, RESUMED, RESET = 0, 1, 2

-- A cursor's number in a record that it holds in.
local function seq_of(cursor)
  return (unpack_struct('>I8', cursor, 9))
end

local function resume(m, length, inbox, cursors, stored, from)
  local holds = function(cursor) return cursor ~= '' and not check(m, length, inbox, cursor) end
  local newest = function(first)
    local best
    for i = first, #cursors do
      if holds(cursors[i]) then
        best = seq_of(cursors[i])
        break
      end
    end
    if stored and #cursors > 0 and holds(stored) then best = max(best or 0, seq_of(stored)) end
    return best or m.b
  end
  local given = cursors[1] or stored
  if not given then return NEW, 0, 0, from == 'o' and m.b or m.b + length - 1 end
  if given == '' then return RESET, EPOCH, 0, newest(2) end
  local why = check(m, length, inbox, given)
  if not why then return RESUMED, 0, 0, seq_of(given) end
  if why == RETENTION then return RESET, why, m.b - seq_of(given), m.b end
  return RESET, why, 0, newest(2)
end

-- Entries after a number: as many as fit, at least one.
local function page(m, length, inbox, seq, out)
  local index, taken, count = seq - m.b + 1, 0, 0
  while index < length and count < count_max do
    for _, row in ipairs(call('LRANGE', inbox, index, min(index + 15, index + count_max - count - 1))) do
      if count > 0 and taken + #row > bytes_max then return 1 end
      out[#out + 1] = row
      taken, count, index = taken + #row, count + 1, index + 1
    end
  end
  return index < length and 1 or 0
end

local function one_request(key, at)
  local meta, inbox, cursors_key, located = KEYS[key], KEYS[key + 1], KEYS[key + 2], KEYS[key + 3]
  local record, epoch, node, connection, reg = ARGV[at], ARGV[at + 1], ARGV[at + 2], ARGV[at + 3], tonumber(ARGV[at + 4])
  local device, from = ARGV[at + 5], ARGV[at + 6]
  local cursors = {}
  for i = 1, tonumber(ARGV[at + 7]) do cursors[i] = ARGV[at + 7 + i] end
  local m, length = load_record(meta, inbox)
  local is_new = not m
  if is_new then
    if node == '' then return { 'G' } end
    m = begin(epoch, now, life, length)
    length = 1
    call('UNLINK', inbox)
    call('RPUSH', inbox, stub(now))
  end
  local stored = device ~= '' and cursors_key ~= meta and call('HGET', cursors_key, device) or nil
  local start, why, lost, seq = resume(m, length, inbox, cursors, stored or nil, from)
  local entry = call('LINDEX', inbox, string.format('%.0f', seq - m.b))
  local out = { '' }
  local more = page(m, length, inbox, seq, out)
  local routed = 0
  if node ~= '' then
    -- Reads came first: a client can read what a full Redis will not let it register for.
    local keys = { meta = meta, inbox = inbox, cursors = cursors_key, located = located }
    local ok = pcall(locate, m, keys, register(m.tail, reg, connection, node, device), record, now, life, is_new)
    routed = ok and 1 or 0
  end
  out[1] = 'A' .. pack('>BBI8', start, why, lost) .. m.epoch
    .. pack('>I8I8I8BB', seq, stamp_of(entry), m.b + length - 1, more, routed) .. registered(m.tail, node)
  return out
end

local answers, at = {}, 4
for key = 1, #KEYS, 4 do
  local ok, answer = pcall(one_request, key, at)
  answers[#answers + 1] = ok and answer or { 'E' .. sub(message(answer), 1, 200) }
  at = at + 8 + tonumber(ARGV[at + 7])
end
return answers
