-- count: counts one part of a stream by sender.
--
-- KEYS  meta, inbox, cursors
-- ARGV  the place to begin behind (24 bytes, or '' for the oldest), entries and bytes at the most, field of the read mark,
--       address of the reader, the number that entries of a group have at least, and two addresses: only what one of them
--       sent to the other, '' and '' for all
-- Answer  { 'C' and | unread 8 | where to go on 24, or nothing |, sender, | count 8 |, … }; or { 'E' why }
local now = clock()

-- Reads what an envelope begins with: `heads_of(row, at)` is its `to`, `from` and `expires_ms`, nil where there is none.
-- The body is stepped over.
local function text_at(row, at)
  local head = byte(row, at)
  local n, from
  if head >= 0xa0 and head <= 0xbf then
    n, from = head - 0xa0, at + 1
  elseif head == 0xd9 then
    n, from = byte(row, at + 1), at + 2
  elseif head == 0xda then
    n, from = unpack_struct('>I2', row, at + 1), at + 3
  else
    error('an envelope has another form')
  end
  return from, from + n
end

local function behind_bytes(row, at)
  local head = byte(row, at)
  if head == 0xc4 then return at + 2 + byte(row, at + 1) end
  if head == 0xc5 then return at + 3 + unpack_struct('>I2', row, at + 1) end
  if head == 0xc6 then return at + 5 + unpack_struct('>I4', row, at + 1) end
  error('an envelope has another form')
end

local function number_at(row, at)
  local head = byte(row, at)
  if head <= 0x7f then return head end
  if head == 0xcc then return byte(row, at + 1) end
  if head == 0xcd then return (unpack_struct('>I2', row, at + 1)) end
  if head == 0xce then return (unpack_struct('>I4', row, at + 1)) end
  if head == 0xcf then return (unpack_struct('>I8', row, at + 1)) end
end

local function heads_of(row, at)
  if byte(row, at) ~= 0x98 then error('an envelope has another form') end
  local from, after = text_at(row, at + 1)
  local to = sub(row, from, after - 1)
  from, after = text_at(row, after)
  local sender = sub(row, from, after - 1)
  from, after = text_at(row, after)
  -- The encoding is one byte.
  return to, sender, number_at(row, behind_bytes(row, after + 1))
end

local function answer()
  local after, entries_max, bytes_max, field, reader = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), ARGV[4], ARGV[5]
  local since, one, other = tonumber(ARGV[6]), ARGV[7], ARGV[8]
  local inbox = KEYS[2]
  local m, length = load_record(KEYS[1], inbox)
  if not m then return { 'C' .. pack('>I8', 0) } end
  local mark = call('HGET', KEYS[3], field)
  local read = mark and not check(m, length, inbox, mark) and unpack_struct('>I8', mark, 9) or -1
  local index = 1
  if after ~= '' and not check(m, length, inbox, after) then index = unpack_struct('>I8', after, 9) - m.b + 1 end
  local by, order, unread, looked_at, taken, last = {}, {}, 0, 0, 0, nil

  local function look(row, seq)
    local version, mseq, at = byte(row), 0, 18
    if version == 2 then mseq, at = unpack_struct('>I8', row, 18), 26 elseif version ~= 1 then return end
    if mseq < since then return end
    local ok, to, from, expires = pcall(heads_of, row, at)
    if not ok then return end
    if one ~= '' and not (from == one and to == other or from == other and to == one) then return end
    if expires and floor(stamp_of(row) / 1000) + expires <= floor(now / 1000) then return end
    if not by[from] then order[#order + 1] = from end
    by[from] = (by[from] or 0) + 1
    if from ~= reader and seq > read then unread = unread + 1 end
  end

  local is_full = false
  while index < length and not is_full do
    for _, row in ipairs(call('LRANGE', inbox, index, min(index + 31, length - 1))) do
      taken = taken + #row
      if looked_at > 0 and (looked_at >= entries_max or taken > bytes_max) then
        is_full = true
        break
      end
      look(row, m.b + index)
      looked_at, last = looked_at + 1, row
      index = index + 1
    end
  end
  local next_place = ''
  if index < length then next_place = m.epoch .. pack('>I8I8', m.b + index - 1, stamp_of(last)) end
  local out = { 'C' .. pack('>I8', unread) .. next_place }
  for _, from in ipairs(order) do
    out[#out + 1] = from
    out[#out + 1] = pack('>I8', by[from])
  end
  return out
end

local ok, said = pcall(answer)
return ok and said or { 'E' .. sub(message(said), 1, 200) }
