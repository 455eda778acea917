-- append: stores one batch of a lane and publishes it, one payload a node.
--
-- KEYS  ledger, then meta, inbox and cursors of each address
-- ARGV  number ('' without a ledger), deadline in us, retention in ms, entries, bytes, young in us, channel prefix, publish
--       command, then for each address: its text, an epoch, the count of its messages, and for each of these a head
--       (| kind 1 | tag 8 | search_us, decimal, '' unless a retry |) and an envelope
-- Answer  'S' and | now 8 |: stale, nothing done, ever; the caller's idea of the clock may be wrong. 'R' (or 'P' for one that was given before,
--       whose clock is an old one) and the reply: | now 8 |, for each address
--       | 0 | epoch 8 | online 1 | for each message: | code 1 | seq 8 | stamp 8 | or | 1 | n 2 | why n |,
--       and behind the reply, not in the ledger, | receivers 2 | n 1 | node n | for each node that was published to.
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
  if now > tonumber(ARGV[2]) then return 'S' .. pack('>I8', now) end
end
local retention, entries_max, bytes_max, young = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
local channel, publish = ARGV[7], ARGV[8]
local life = life_ms(retention)
local STORED, FOUND, PUBLISHED, UNPROVABLE = 1, 2, 3, 4

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

-- Pass one, one address: what is to be done with each message; nothing is written.
local function plan(a)
  local m = a.meta
  local is_young = m and now - m.t < young
  local before, length = {}, nil
  for _, one in ipairs(a.messages) do
    if one.kind == 'e' then
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
          elseif stamp and one.search then
            one.plan, one.seq, one.stamp = UNPROVABLE, 0, now
          end
        end
      end
    end
  end
end

local function trim(m, inbox, length)
  local function pop(count)
    for _, row in ipairs(call('LPOP', inbox, count)) do m.bytes = m.bytes - #row end
    m.b, length = m.b + count, length - count
  end
  local surplus = min(length - 1 - max(entries_max, 1), 1000)
  if surplus > 0 then pop(surplus) end
  local trimmed = 0
  while m.bytes > bytes_max and length > 2 and trimmed < 1000 do
    pop(1)
    trimmed = trimmed + 1
  end
  local cutoff = max(now - retention * 1000, 0)
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

-- Pushes rows behind the last, in pieces that Lua can unpack; returns the new length, 0 if there is no list.
local function push(inbox, rows)
  local length = 0
  for from = 1, #rows, 1000 do
    length = call('RPUSHX', inbox, unpack(rows, from, min(from + 999, #rows)))
    if length == 0 then return 0 end
  end
  return length
end

-- Pass two, one address: everything that is written for it.
local function store(a)
  local m, rows = a.meta, {}
  for _, one in ipairs(a.messages) do
    if one.plan == STORED or one.plan == PUBLISHED then
      one.row = '\1' .. one.tag .. pack('>I8', now + one.place) .. one.envelope
      if one.plan == STORED then rows[#rows + 1] = one.row end
    end
  end
  if #rows > 0 then
    local is_new = not m
    local length = m and push(a.inbox, rows) or 0
    if length == 0 then
      -- No record, or only its meta: a new epoch. Locations stay.
      is_new = true
      m = begin(a.epoch, now, life, m)
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
        if one.search then m.t = now end
      end
    end
    m.last = link
    trim(m, a.inbox, length)
    local is_moved = is_new or is_due(m, now, life)
    if is_moved then m.expiry = floor(now / 1000) + life end
    if is_new then
      save(a.meta_key, m)
    else
      call('SETRANGE', a.meta_key, 9, pack('>I8I8I8I8I8I8', m.b, m.last, m.bytes, m.oldest, m.expiry, m.t))
    end
    if is_moved then
      local at = string.format('%.0f', m.expiry)
      if not is_new then call('PEXPIREAT', a.meta_key, at) end
      call('PEXPIREAT', a.inbox, at)
      call('PEXPIREAT', a.cursors, at)
    end
    a.meta = m
  end
end

-- The nodes of an address, each once.
local function nodes_of(m)
  local nodes, seen = {}, {}
  if m and m.tail ~= '' then
    each_location(m.tail, function(_, _, node)
      if not seen[node] then
        seen[node] = true
        nodes[#nodes + 1] = node
      end
    end)
  end
  return nodes
end

local function fail(a, err)
  a.failed = sub(message(err), 1, 200)
end

-- Reads the arguments, and every meta in one call. A meta of another type reads as absent: it is looked at alone.
local addresses, metas, at, place = {}, {}, 9, 0
for key = 2, #KEYS, 3 do metas[#metas + 1] = KEYS[key] end
local raws = #metas > 0 and call('MGET', unpack(metas)) or {}
for index = 1, #metas do
  local a = { record = ARGV[at], epoch = ARGV[at + 1], meta_key = metas[index], inbox = KEYS[index * 3],
    cursors = KEYS[index * 3 + 1], messages = {} }
  local count = tonumber(ARGV[at + 2])
  at = at + 3
  for i = 1, count do
    local head = ARGV[at]
    a.messages[i] = { kind = sub(head, 1, 1), tag = sub(head, 2, 9), search = tonumber(sub(head, 10)),
      envelope = ARGV[at + 1], place = place }
    at, place = at + 2, place + 1
  end
  local ok, err = pcall(function()
    local raw = raws[index]
    if raw then a.meta = parse(raw) elseif call('EXISTS', a.meta_key) == 1 then call('GET', a.meta_key) end
    plan(a)
  end)
  if not ok then fail(a, err) end
  addresses[index] = a
end

for _, a in ipairs(addresses) do
  if not a.failed then
    local ok, err = pcall(store, a)
    if not ok then fail(a, err) end
  end
end

-- The reply, and the payload of each node.
local reply, payloads, order = { pack('>I8', now) }, {}, {}
for _, a in ipairs(addresses) do
  local nodes = nodes_of(a.meta)
  if a.failed then
    reply[#reply + 1] = pack('>BI2', 1, #a.failed) .. a.failed
  else
    local m = a.meta
    reply[#reply + 1] = '\0' .. (m and m.epoch or STUB_TAG) .. (#nodes > 0 and '\1' or '\0')
  end
  for _, one in ipairs(a.messages) do
    if not a.failed then
      if one.same then
        local code = one.same.plan
        reply[#reply + 1] = pack('>BI8I8', code == STORED and FOUND or code, one.same.seq, one.same.stamp)
      elseif one.plan == PUBLISHED then
        reply[#reply + 1] = pack('>BI8I8', PUBLISHED, 0, now + one.place)
      else
        reply[#reply + 1] = pack('>BI8I8', one.plan, one.seq, one.stamp)
      end
    end
    -- Ephemeral messages are published whatever became of the others.
    local is_live = one.kind == 'e' or (not a.failed and one.plan == STORED)
    if is_live and #nodes > 0 then
      local row = one.row or ('\1' .. one.tag .. pack('>I8', now + one.place) .. one.envelope)
      local is_stored = one.plan == STORED
      local item = pack('>BI2', is_stored and 1 or 2, #a.record) .. a.record .. (is_stored and a.meta.epoch or STUB_TAG)
        .. pack('>I8I8I8I4', is_stored and one.seq or 0, is_stored and one.link or 0, a.meta.v, #row) .. row
      for _, node in ipairs(nodes) do
        local payload = payloads[node]
        if not payload then
          payload = { '\1' }
          payloads[node] = payload
          order[#order + 1] = node
        end
        payload[#payload + 1] = item
      end
    end
  end
end
reply = concat(reply)
-- Nothing after the pushes may fail the call: what is stored is answered.
if number ~= '' then pcall_redis('SET', KEYS[1], pack('>I8', tonumber(number)) .. reply, 'PX', 3600000) end
local receivers = {}
for _, node in ipairs(order) do
  local count = pcall_redis(publish, channel .. node, concat(payloads[node]))
  receivers[#receivers + 1] = pack('>I2B', type(count) == 'number' and min(count, 65535) or 0, #node) .. node
end
return 'R' .. reply .. concat(receivers)
