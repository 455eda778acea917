-- What all scripts share. Each script is this text and its own, joined when the node is built.
--
-- The rules are those of delivery/src/record.rs, which the conformance suite compares step by step with this.
-- Meta is one packed string, numbers big-endian:
--   | 1 | epoch 8 | b 8 | last 8 | bytes 8 | oldest 8 | expiry 8 | t 8 | d 8 | v 8 | locations |
-- a location: | reg 8 | connection 8 | flags 1 | n 1 | m 1 | node n | device m |, flags being 1 (taken over) or 2 (exclusive) where
-- another connection has its place
-- `b` is the number of the entry at index 0 (the base), `last` the stamp of the newest, `bytes` the size of all, `oldest`
-- a stamp that nothing deliverable is older than, `t` the newest retry's time, `d` is reserved. `v` is of a group the number of
-- its newest membership change, of a user the version of the set of his groups; only grows.
local call, pcall_redis = redis.call, redis.pcall
local pack, unpack_struct, sub, byte, concat = struct.pack, struct.unpack, string.sub, string.byte, table.concat
local floor, max, min = math.floor, math.max, math.min

local META_VERSION = 1
local HEAD_BYTES = 73
local STUB_TAG = string.rep('\0', 8)

-- Microseconds. The same value during one run of a script.
local function clock()
  local time = call('TIME')
  return time[1] * 1000000 + time[2]
end

-- The text of an error that redis.call raised or a Lua error.
local function message(err)
  return type(err) == 'table' and err.err or tostring(err)
end

local function life_ms(retention_ms)
  return max(floor(retention_ms * 9 / 8), 120000)
end

local function parse(raw)
  if #raw < HEAD_BYTES or byte(raw, 1) ~= META_VERSION then error('BADMETA the meta of this address has another form') end
  local m = { epoch = sub(raw, 2, 9) }
  m.b, m.last, m.bytes, m.oldest, m.expiry, m.t, m.d, m.v = unpack_struct('>I8I8I8I8I8I8I8I8', raw, 10)
  m.tail = sub(raw, HEAD_BYTES + 1)
  return m
end

local function whole(m)
  return '\1' .. m.epoch .. pack('>I8I8I8I8I8I8I8I8', m.b, m.last, m.bytes, m.oldest, m.expiry, m.t, m.d, m.v) .. m.tail
end

local function stub(now)
  return '\1' .. STUB_TAG .. pack('>I8', now)
end

local function stamp_of(entry)
  return (unpack_struct('>I8', entry, 10))
end

local function is_group(record)
  return sub(record, 1, 6) == 'group:'
end

-- A new life of an inbox; locations and numbers of the old meta stay. A group's first number is now: whoever joined it
-- before is a member.
local function begin(epoch, now, life, record, old)
  local v = old and old.v or (is_group(record) and now or 0)
  return { epoch = epoch, b = 0, last = now, bytes = 17, oldest = now, expiry = floor(now / 1000) + life, t = 0,
    d = old and old.d or 0, v = v, tail = old and old.tail or '' }
end

-- A record that expires before this has its expiry moved.
local function due_before(now, life)
  return floor(now / 1000) + life - floor(life / 18)
end

-- Calls fn(reg, connection, node, device, flags, first, after) for each location, `first` to `after - 1` being its bytes.
local function each_location(tail, fn)
  local at, size = 1, #tail
  while at <= size do
    local reg, connection, flags, n, d, from = unpack_struct('>I8c8BBB', tail, at)
    local after = from + n + d
    fn(reg, connection, sub(tail, from, from + n - 1), sub(tail, from + n, after - 1), flags, at, after)
    at = after
  end
end

-- The nodes of an address, each once, in the order of their first registration.
local function nodes_of(tail)
  local nodes, seen = {}, {}
  each_location(tail, function(_, _, node)
    if not seen[node] then
      seen[node] = true
      nodes[#nodes + 1] = node
    end
  end)
  return nodes
end

-- The tail with this registration in it; a lower number than the one there changes nothing. Who gave its place does not get
-- it back by registering again.
local function register(tail, reg, connection, node, device)
  local found
  local function row(flags)
    return pack('>I8', reg) .. connection .. pack('>BBB', flags, #node, #device) .. node .. device
  end
  each_location(tail, function(there, c, n, _, flags, first, after)
    if c == connection and n == node then found = { there, flags, first, after } end
  end)
  if not found then return tail .. row(0) end
  if found[1] > reg then return tail end
  return sub(tail, 1, found[3] - 1) .. row(found[2]) .. sub(tail, found[4])
end

-- connection, number and flags of all locations of one node
local function registered(tail, node)
  local out = {}
  each_location(tail, function(reg, c, n, _, flags)
    if n == node then out[#out + 1] = c .. pack('>I8B', reg, flags) end
  end)
  return concat(out)
end

-- Why a cursor (24 bytes: epoch, seq, stamp) is no place of this inbox; nil if it is.
local RETENTION, EPOCH, AHEAD, FORK = 1, 2, 3, 4
local function check(m, length, inbox, cursor)
  if sub(cursor, 1, 8) ~= m.epoch then return EPOCH end
  local seq, stamp = unpack_struct('>I8I8', cursor, 9)
  if seq < m.b then return RETENTION end
  if seq >= m.b + length then return AHEAD end
  local entry = call('LINDEX', inbox, string.format('%.0f', seq - m.b))
  if not entry or stamp_of(entry) ~= stamp then return FORK end
end

-- Meta and length of an inbox that is whole; nil where there is none, with the old meta if only the inbox is gone.
local function load_record(meta, inbox)
  local raw = call('GET', meta)
  if not raw then return nil end
  local m = parse(raw)
  local length = call('LLEN', inbox)
  if length == 0 then return nil, m end
  return m, length
end

-- Writes meta as a whole, with its expiry.
local function save(meta, m)
  call('SET', meta, whole(m), 'PXAT', string.format('%.0f', m.expiry))
end

-- What has to be cleaned up if the node dies; forgotten a day after it was written last.
local function note_located(keys, record)
  call('SADD', keys.located, record)
  call('EXPIRE', keys.located, 86400)
end

-- Writes the locations of a record, and moves its expiry where that is due; nothing where both are as they were. True if
-- the expiry was moved.
local function locate(m, keys, tail, record, now, life, is_new)
  local is_moved = is_new or m.expiry < due_before(now, life)
  if is_moved then m.expiry = floor(now / 1000) + life end
  if is_moved or m.is_changed or tail ~= m.tail then
    m.tail = tail
    save(keys.meta, m)
    -- A slot on its way: what has a key of its own is written by a call of its own, and meta stands for it here.
    if keys.located ~= keys.meta then note_located(keys, record) end
  end
  if is_moved then
    local expiry = string.format('%.0f', m.expiry)
    call('PEXPIREAT', keys.inbox, expiry)
    call('PEXPIREAT', keys.cursors, expiry)
  end
  return is_moved
end

-- Keeps the locations for which fn(reg, connection, node) is true; true if others were there, which are written away.
local function keep_locations(meta, m, fn)
  local kept = {}
  each_location(m.tail, function(reg, c, n, _, _, first, after)
    if fn(reg, c, n) then kept[#kept + 1] = sub(m.tail, first, after - 1) end
  end)
  local tail = concat(kept)
  if tail == m.tail then return false end
  m.tail = tail
  save(meta, m)
  return true
end
