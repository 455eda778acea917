-- attach and read: where a stream goes on from, its first page, and (attach) the location; one step, so that either an
-- append sees the location or the attach sees the append.
--
-- KEYS  meta, inbox, cursors, located-at, members (a user's groups), presence and watchers of each request; meta in the place
--       of what is not to be named: what a kind of address has not, and all but meta and inbox while a slot is on its way
-- ARGV  retention in ms, messages and bytes of a page, publish command, channel prefix, then for each request: address text,
--       epoch, node ('' to register nothing), connection 8, reg, device ('' without), from ('o' or 'n'), field of the stored
--       cursor ('' without), member ('' without, 'u' and the user, or what is known of him: 'j' and the number 8 of his join,
--       'n' he is none), version of the set of groups that is known ('' not asked), claim ('', 't' and the connection 8 that is
--       taken over, 'x' exclusive), profile ('' to leave it), count of cursors, and these, newest first: epoch, seq and stamp
--       as 24 bytes, or '' for one that cannot be read
-- Answer  for each request an array: a head, and the entries of the page. Heads:
--       | 'A' | start 1 | reason 1 | lost 8 | epoch 8 | seq 8 | stamp 8 | head 8 | more 1 | routed 1 | version 8 | is member 1 |
--       joined 8 | user 1 | of user | locations 17 each |, | 'G' | no record (where nothing is registered), | 'E' why |.
--       Of user, where that is 1: | all 1 | cursor in everybody's stream 24, where that is 1 | groups 2 | n 1, group n, each |
local now = clock()
local retention, count_max, bytes_max = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local life = life_ms(retention)
local NEW, RESUMED, RESET = 0, 1, 2

-- A cursor's number in a record that it holds in.
local function seq_of(cursor)
  return (unpack_struct('>I8', cursor, 9))
end

-- The number before the first entry that is for a member: the numbers of changes never fall along an inbox. Nothing is for
-- who is none.
local function floor_of(m, length, inbox, joined)
  if not joined then return m.b + length - 1 end
  local low, high = 0, length
  while low < high do
    local middle = floor((low + high) / 2)
    local row = call('LINDEX', inbox, string.format('%.0f', middle))
    local mseq = byte(row) == 2 and unpack_struct('>I8', row, 18) or 0
    if mseq < joined then low = middle + 1 else high = middle end
  end
  return m.b + max(low - 1, 0)
end

-- `begin_behind`: the number that a stream begins behind that goes on from nowhere. Trimmed places go on at the base, those of a
-- guest, who is no member, at the end.
local function resume(m, length, inbox, cursors, stored, is_oldest, begin_behind, is_guest)
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
    return best or begin_behind()
  end
  local given = cursors[1] or stored
  if not given then return NEW, 0, 0, is_oldest and begin_behind() or m.b + length - 1 end
  if given == '' then return RESET, EPOCH, 0, newest(2) end
  local why = check(m, length, inbox, given)
  if not why then return RESUMED, 0, 0, seq_of(given) end
  if why == RETENTION then
    local start = is_guest and m.b + length - 1 or m.b
    return RESET, why, start - seq_of(given), start
  end
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

-- The number of a user's join, if he is a member.
local function joined_of(members, meta, member)
  local known = sub(member, 1, 1)
  local raw
  if known == 'j' then
    raw = sub(member, 2)
  elseif known == 'u' and members ~= meta then
    raw = call('HGET', members, sub(member, 2))
  end
  return raw and (unpack_struct('>I8', raw))
end

-- The tail with a mark at each location that gives its place, and these: node, and what it is told. Who has given his own
-- place takes nobody's.
local function claimed(tail, claim, connection, node, device)
  local kind, other, rows, taken = sub(claim, 1, 1), sub(claim, 2), {}, {}
  each_location(tail, function(_, c, n, _, flags)
    if c == connection and n == node and flags ~= 0 then kind = '' end
  end)
  if kind == '' then return tail, taken end
  each_location(tail, function(_, c, n, d, _, first, after)
    local is_own, why = c == connection and n == node, nil
    if not is_own and kind == 't' and c == other then why = '\1' end
    if not is_own and kind == 'x' and device ~= '' and d == device then why = '\2' end
    if why then
      rows[#rows + 1] = sub(tail, first, first + 15) .. why .. sub(tail, first + 17, after - 1)
      taken[#taken + 1] = { n, 'h' .. c .. why }
    else
      rows[#rows + 1] = sub(tail, first, after - 1)
    end
  end)
  return concat(rows), taken
end

-- What a user's connection does not know yet: of the set of his groups by its version, of everybody's stream always.
local function of_user(m, keys, known, device)
  if known == '' or keys.members == keys.meta or (tonumber(known) ~= 0 and tonumber(known) == m.v) then return '\0' end
  local all = device ~= '' and call('HGET', keys.cursors, '/all/' .. device)
  local out = { '\1', all and '\1' .. all or '\0' }
  local groups = call('HKEYS', keys.members)
  out[3] = pack('>I2', #groups)
  for _, group in ipairs(groups) do out[#out + 1] = pack('>B', #group) .. group end
  return concat(out)
end

local function one_request(key, at)
  local keys = { meta = KEYS[key], inbox = KEYS[key + 1], cursors = KEYS[key + 2], located = KEYS[key + 3],
    members = KEYS[key + 4], presence = KEYS[key + 5], watchers = KEYS[key + 6] }
  local record, epoch, node, connection, reg, device, from, field, member, known, claim, profile, count =
    unpack(ARGV, at, at + 12)
  local inbox, cursors = keys.inbox, {}
  for i = 1, tonumber(count) do cursors[i] = ARGV[at + 12 + i] end
  local m, length = load_record(keys.meta, inbox)
  local is_new = not m
  if is_new then
    if node == '' then return { 'G' } end
    m = begin(epoch, now, life, record, length)
    length = 1
    call('UNLINK', inbox)
    call('RPUSH', inbox, stub(now))
  end
  local joined = joined_of(keys.members, keys.meta, member)
  local stored = field ~= '' and keys.cursors ~= keys.meta and call('HGET', keys.cursors, field) or nil
  local start, why, lost, seq = resume(m, length, inbox, cursors, stored or nil, from == 'o', function()
    return member == '' and m.b or floor_of(m, length, inbox, joined)
  end, member ~= '' and not joined)
  local entry = call('LINDEX', inbox, string.format('%.0f', seq - m.b))
  local out = { '' }
  local more = page(m, length, inbox, seq, out)
  local routed = 0
  if node ~= '' then
    if m.v == 0 and sub(record, 1, 5) == 'user:' and keys.members ~= keys.meta and call('EXISTS', keys.members) == 1 then
      -- His record has expired since he joined his groups.
      m.v, m.is_changed = now, true
    end
    -- Reads came first: a client can read what a full Redis will not let it register for.
    local tail, taken = claimed(m.tail, claim, connection, node, device)
    tail = register(tail, tonumber(reg), connection, node, device)
    local ok, is_moved = pcall(locate, m, keys, tail, record, now, life, is_new)
    if ok then
      routed = 1
      for _, one in ipairs(taken) do tell(one[1], record, m.v, one[2]) end
      pcall(settle_presence, keys, record, m.tail, m.v, now, profile ~= '' and profile, is_moved)
    end
  end
  out[1] = 'A' .. pack('>BBI8', start, why, lost) .. m.epoch
    .. pack('>I8I8I8BBI8BI8', seq, stamp_of(entry), m.b + length - 1, more, routed, m.v, joined and 1 or 0, joined or 0)
    .. of_user(m, keys, known, device) .. registered(m.tail, node)
  return out
end

local answers, at = {}, 6
for key = 1, #KEYS, 7 do
  local ok, answer = pcall(one_request, key, at)
  answers[#answers + 1] = ok and answer or { 'E' .. sub(message(answer), 1, 200) }
  at = at + 13 + tonumber(ARGV[at + 12])
end
publish_told(ARGV[4], ARGV[5])
return answers
