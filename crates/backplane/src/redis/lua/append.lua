-- append: stores one batch of a lane and publishes it, one payload a node.
--
-- KEYS  ledger, then the metas of all addresses, then their inboxes, then their cursors
-- ARGV  number ('' without a ledger), deadline in us, retention in ms, entries, bytes, young in us, channel prefix, publish
--       command, epoch of every inbox that begins, everybody's channel, then for each address: heads, item, and an envelope a
--       message. Item: | 1 | n 2 | address n |, how its part of a bundle begins. Heads: of durable first tries | 1 | tag 8 |
--       each, how an entry begins, or for a group | 2 | tag 8 |; if there is another among them
--       | kind 1 | tag 8 | search_us 8 | each, kind being 'd', 'e', 'r' (a retry) or 'l' (a first try that comes late: looked
--       for, and stored where it is not found)
-- Answer  'S' and | now 8 |: stale, nothing done, ever; the caller's idea of the clock may be wrong. 'R' (or 'P' for one that was given before,
--       whose clock is an old one) and the reply: | now 8 |, for each address
--       | 1 | epoch 8 | online 1 | for each message: | 1 | seq 8 | (its stamp is now and its place in the batch)
--       or | code 1 | seq 8 | stamp 8 |; or | 0 | n 2 | why n |,
--       and behind the reply, not in the ledger, | receivers 2 | n 1 | node n | for each node that was published to by itself.
--
-- Redis pays for every string that a script makes (it is hashed, whole) and for every function and table. So the common
-- case is written out: durable first tries to an address whose meta is there and that nothing else is due for. What is
-- not common is made by `general`, when it is needed.
local now = clock()
local number = ARGV[1]
if number ~= '' then
  local held = call('GET', KEYS[1])
  if held then
    local last = unpack_struct('>I8', held)
    -- Equal is looked at before the deadline: an answer that is there is given.
    if last == tonumber(number) then return 'P' .. sub(held, 9) end
    if last > tonumber(number) then return 'S' .. pack('>I8', now) end
  end
end
-- Without a number too: a copy that comes late has nothing else to stop it.
if now > tonumber(ARGV[2]) then return 'S' .. pack('>I8', now) end
local KEYS, ARGV, FIRST = KEYS, ARGV, 11
local retention, entries_max, bytes_max, young = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
local life, cutoff = life_ms(retention), max(now - retention * 1000, 0)
local due = due_before(now, life)
-- Base and deliverable entries.
local length_max = max(entries_max, 1) + 1
local STORED, FOUND, PUBLISHED, UNPROVABLE = 1, 2, 3, 4
-- Everybody's stream is published once where it is at more nodes than this, else to each. '' stands for all of them.
local EVERYBODY, NODES_MAX = '\1\0\3all', 50

-- Every meta in one call. One of another type reads as absent: it is looked at alone.
local count = (#KEYS - 1) / 3
local raws = count > 0 and call('MGET', unpack(KEYS, 2, count + 1)) or {}

-- What both passes go by: the address, where its arguments begin, the place of its first message. `others` are the
-- addresses that are not common.
local index, at, place = 0, FIRST, 0
local others = {}
local reply, payloads, order = { '', pack('>I8', now) }, {}, {}

-- Puts one item, in four parts, behind what a node gets.
local function add(node, item, epoch, numbers, row)
  local payload = payloads[node]
  if not payload then
    payload = { '\1' }
    payloads[node] = payload
    order[#order + 1] = node
  end
  local filled = #payload
  payload[filled + 1], payload[filled + 2], payload[filled + 3], payload[filled + 4] = item, epoch, numbers, row
end

-- Pushes rows behind the last, in pieces that Lua can unpack; returns the new length, 0 if there is no list.
local function push(inbox, rows)
  local length = 0
  for from = 1, #rows, 1000 do
    length = call('RPUSHX', inbox, unpack(rows, from, min(from + 999, #rows)))
    if length == 0 then return 0 end
  end
  return length
end

-- The functions for all that is not common.
local made
local function general()
  if made then return made end

  -- The arguments of one address, as tables.
  local function arguments(i, first, first_place)
    local heads, messages = ARGV[first], {}
    local step = byte(heads) <= 2 and 9 or 17
    for j = 1, #heads / step do
      local from = (j - 1) * step + 1
      local kind = sub(heads, from, from)
      local search = (kind == 'r' or kind == 'l') and unpack_struct('>I8', heads, from + 9)
      messages[j] = { is_ephemeral = kind == 'e', search = search, is_retry = kind == 'r',
        tag = sub(heads, from + 1, from + 8), envelope = ARGV[first + 1 + j], place = first_place + j - 1 }
    end
    local record = sub(ARGV[first + 1], 4)
    return { raw = raws[i], record = record, is_group = is_group(record), meta_key = KEYS[i + 1], inbox = KEYS[count + i + 1], cursors = KEYS[2 * count + i + 1],
      item = ARGV[first + 1], messages = messages, nodes = {}, after = first + 2 + #messages }
  end

  -- Looks for a tag from the end back: its number and stamp, or nil and whether the bound came first.
  local function search(m, length, inbox, tag, since)
    local first = m.b == 0 and 1 or 0
    local seen, bytes, after = 0, 0, length
    while after > first do
      local from = max(after - 16, first)
      local rows = call('LRANGE', inbox, from, after - 1)
      for i = #rows, 1, -1 do
        local stamp = stamp_of(rows[i])
        if sub(rows[i], 2, 9) == tag then return m.b + from + i - 1, stamp end
        if stamp < since then return nil, false end
        bytes = bytes + #rows[i]
      end
      seen = seen + #rows
      after = from
      if after > first and (seen >= 4096 or bytes >= 524288) then return nil, true end
    end
    return nil, m.b > 0
  end

  -- Where an address is published: at its nodes, or once for everybody.
  local function receivers_of(tail, item)
    local nodes = nodes_of(tail)
    return #nodes > NODES_MAX and item == EVERYBODY and { '' } or nodes
  end

  -- Pass one: what is to be done with each message; nothing is written.
  local function plan(a)
    local raw = a.raw
    if raw then a.meta = parse(raw) elseif call('EXISTS', a.meta_key) == 1 then call('GET', a.meta_key) end
    local m = a.meta
    if m then a.nodes = receivers_of(m.tail, a.item) end
    local is_young = m and now - m.t < young
    local before, length = {}, nil
    for _, one in ipairs(a.messages) do
      if one.is_ephemeral then
        one.plan = PUBLISHED
      else
        local earlier = before[one.tag]
        if earlier and (one.search or earlier.search or is_young) then
          one.same = earlier
        else
          before[one.tag] = one
          one.plan = STORED
          local window = one.search or (is_young and young)
          if m and window then
            length = length or call('LLEN', a.inbox)
            local seq, stamp = search(m, length, a.inbox, one.tag, max(now - window, 0))
            if seq then
              one.plan, one.seq, one.stamp = FOUND, seq, stamp
            elseif stamp and one.is_retry then
              one.plan, one.seq, one.stamp = UNPROVABLE, 0, now
            end
          end
        end
      end
    end
  end

  local function trim(m, inbox, length)
    local function pop(number_of)
      for _, row in ipairs(call('LPOP', inbox, number_of)) do m.bytes = m.bytes - #row end
      m.b, length = m.b + number_of, length - number_of
    end
    local surplus = min(length - length_max, 1000)
    if surplus > 0 then pop(surplus) end
    local trimmed = 0
    while m.bytes > bytes_max and length > 2 and trimmed < 1000 do
      pop(1)
      trimmed = trimmed + 1
    end
    if m.oldest < cutoff then
      local heads = call('LRANGE', inbox, 1, 32)
      local old = 0
      while old < #heads and stamp_of(heads[old + 1]) < cutoff do old = old + 1 end
      old = min(old, length - 2)
      local head = heads[old + 1] or heads[#heads]
      if head then m.oldest = stamp_of(head) end
      if old > 0 then pop(old) end
    end
  end

  -- Behind a push: trims, then meta, then the expiry of all three keys at the same moment.
  local function settle(m, meta_key, inbox, cursors, length, is_new)
    trim(m, inbox, length)
    local is_moved = is_new or m.expiry < due
    if is_moved then m.expiry = floor(now / 1000) + life end
    if is_new then
      save(meta_key, m)
    else
      call('SETRANGE', meta_key, 9, pack('>I8I8I8I8I8I8', m.b, m.last, m.bytes, m.oldest, m.expiry, m.t))
    end
    if is_moved then
      local expiry = string.format('%.0f', m.expiry)
      if not is_new then call('PEXPIREAT', meta_key, expiry) end
      call('PEXPIREAT', inbox, expiry)
      call('PEXPIREAT', cursors, expiry)
    end
  end

  -- Pass two: everything that is written for it.
  local function store(a)
    local m, rows = a.meta, {}
    -- A group's record begins with the number that it has now.
    local mseq = a.is_group and pack('>I8', m and m.v or now) or ''
    for _, one in ipairs(a.messages) do
      if one.plan == STORED then
        one.row = (a.is_group and '\2' or '\1') .. one.tag .. pack('>I8', now + one.place) .. mseq .. one.envelope
        rows[#rows + 1] = one.row
      end
    end
    if #rows > 0 then
      local is_new = not m
      local length = m and push(a.inbox, rows) or 0
      if length == 0 then
        -- No record, or only its meta: a new epoch. Locations stay.
        is_new = true
        m = begin(ARGV[9], now, life, a.record, m)
        call('UNLINK', a.inbox)
        call('RPUSH', a.inbox, stub(now))
        length = push(a.inbox, rows)
      end
      local seq, link = m.b + length - #rows, m.last
      for _, one in ipairs(a.messages) do
        if one.plan == STORED then
          one.seq, one.stamp, one.link = seq, now + one.place, link
          seq, link = seq + 1, one.stamp
          m.bytes = m.bytes + #one.row
          if one.is_retry then m.t = now end
        end
      end
      m.last = link
      settle(m, a.meta_key, a.inbox, a.cursors, length, is_new)
      a.meta = m
    end
  end

  -- Its part of the reply and of the payloads.
  local function answer(a)
    local m = a.meta
    if a.failed then
      reply[#reply + 1] = pack('>BI2', 0, #a.failed) .. a.failed
    else
      reply[#reply + 1] = '\1' .. (m and m.epoch or STUB_TAG) .. (#a.nodes > 0 and '\1' or '\0')
    end
    for _, one in ipairs(a.messages) do
      local is_stored = not a.failed and one.plan == STORED
      if is_stored then
        reply[#reply + 1] = pack('>BI8', STORED, one.seq)
      elseif not a.failed then
        local said = one.same or one
        local code = said.plan == STORED and FOUND or said.plan
        reply[#reply + 1] = pack('>BI8I8', code, said.seq or 0, said.stamp or now + one.place)
      end
      -- Ephemeral messages are published whatever became of the others.
      if is_stored or one.is_ephemeral then
        local row = one.row or ('\1' .. one.tag .. pack('>I8', now + one.place) .. one.envelope)
        local item = is_stored and a.item or '\2' .. sub(a.item, 2)
        local numbers = pack('>I8I8I8I4', is_stored and one.seq or 0, is_stored and one.link or 0, m and m.v or 0, #row)
        for _, node in ipairs(a.nodes) do add(node, item, is_stored and m.epoch or STUB_TAG, numbers, row) end
      end
    end
  end

  made = { arguments = arguments, receivers_of = receivers_of, plan = plan, settle = settle, store = store, answer = answer }
  return made
end

-- Pass one. `index`, `at` and `place` move on before anything that can fail, so that a pass goes on behind a failure.
local function read_all()
  while index < count do
    index = index + 1
    local heads, raw = ARGV[at], raws[index]
    local is_common = byte(heads) <= 2 and raw and #raw >= HEAD_BYTES and byte(raw) == META_VERSION
      and now - unpack_struct('>I8', raw, 50) >= young
    if is_common then
      local messages = #heads / 9
      at, place = at + 2 + messages, place + messages
    else
      local a = general().arguments(index, at, place)
      others[index] = a
      at, place = a.after, place + #a.messages
      general().plan(a)
    end
  end
end

-- Pass two, an address that is common. What `store` and `answer` do, for nothing but first tries.
local function store_common(heads, item, raw, first, messages, stamp)
  local size, node, nodes = #raw, nil, nil
  if size > HEAD_BYTES then
    -- One location, nearly always: its node's length is at 91, its device's at 92.
    local n, d = byte(raw, 91, 92)
    if d and 92 + n + d == size then
      node = sub(raw, 93, 92 + n)
    else
      nodes = general().receivers_of(sub(raw, HEAD_BYTES + 1), item)
    end
  end
  local b, link, bytes, oldest, expiry, _, _, version = unpack_struct('>I8I8I8I8I8I8I8I8', raw, 10)
  local inbox, row, rows, length = KEYS[count + index + 1], nil, nil, nil
  local is_plain = byte(heads) == 1
  if messages == 1 then
    row = is_plain and heads .. pack('>I8', stamp) .. ARGV[first] or heads .. pack('>I8I8', stamp, version) .. ARGV[first]
    bytes = bytes + #row
    length = call('RPUSHX', inbox, row)
  else
    rows = {}
    for j = 1, messages do
      local head = sub(heads, j * 9 - 8, j * 9)
      if is_plain then
        row = head .. pack('>I8', stamp + j - 1) .. ARGV[first + j - 1]
      else
        row = head .. pack('>I8I8', stamp + j - 1, version) .. ARGV[first + j - 1]
      end
      bytes = bytes + #row
      rows[j] = row
    end
    length = push(inbox, rows)
  end
  if length == 0 then return false end
  local seq, last = b + length - messages, stamp + messages - 1
  if length > length_max or bytes > bytes_max or oldest < cutoff or expiry < due then
    local m = parse(raw)
    m.last, m.bytes = last, bytes
    general().settle(m, KEYS[index + 1], inbox, KEYS[2 * count + index + 1], length, false)
  else
    call('SETRANGE', KEYS[index + 1], '17', pack('>I8I8', last, bytes))
  end
  -- The version of meta and its epoch are also how the answer begins.
  local filled = #reply
  reply[filled + 1] = pack('>c9BBI8', raw, (node or nodes) and 1 or 0, STORED, seq)
  for j = 2, messages do reply[filled + j] = pack('>BI8', STORED, seq + j - 1) end
  if node or nodes then
    local epoch = sub(raw, 2, 9)
    for j = 1, messages do
      row = rows and rows[j] or row
      local numbers = pack('>I8I8I8I4', seq + j - 1, link, version, #row)
      if node then
        add(node, item, epoch, numbers, row)
      else
        for k = 1, #nodes do add(nodes[k], item, epoch, numbers, row) end
      end
      link = stamp + j - 1
    end
  end
  return true
end

local function write_all()
  while index < count do
    index = index + 1
    local a, first_place = others[index], place
    if a then
      at, place = a.after, place + #a.messages
    else
      local heads, first = ARGV[at], at
      local messages = #heads / 9
      at, place = at + 2 + messages, place + messages
      if not store_common(heads, ARGV[first + 1], raws[index], first + 2, messages, now + first_place) then
        -- Its inbox is gone.
        a = general().arguments(index, first, first_place)
        others[index] = a
        general().plan(a)
      end
    end
    if a then
      if not a.failed then general().store(a) end
      general().answer(a)
    end
  end
end

-- A failure is that address's own: the pass goes on behind it.
local function run(pass)
  index, at, place = 0, FIRST, 0
  while true do
    local ok, err = pcall(pass)
    if ok then return end
    local a = others[index] or { messages = {} }
    a.failed = sub(message(err), 1, 200)
    if pass == write_all then general().answer(a) end
  end
end

run(read_all)
run(write_all)

-- Nothing after the pushes may fail the call: what is stored is answered.
if number ~= '' then
  reply[1] = pack('>I8', tonumber(number))
  pcall_redis('SET', KEYS[1], concat(reply), 'PX', '3600000')
end
reply[1] = 'R'
for i = 1, #order do
  local node = order[i]
  local heard = pcall_redis(ARGV[8], node == '' and ARGV[10] or ARGV[7] .. node, concat(payloads[node]))
  if node ~= '' then
    reply[#reply + 1] = pack('>I2B', type(heard) == 'number' and min(heard, 65535) or 0, #node) .. node
  end
end
return concat(reply)
