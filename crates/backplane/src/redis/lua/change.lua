-- change: changes members of groups, and tells the nodes where the groups are; one step, so that an append is either
-- before a change or behind it.
--
-- KEYS  meta, inbox, cursors, members and log of each request
-- ARGV  deadline in us, retention in ms, members at the most, changes that a log keeps, publish command, channel prefix,
--       then for each request: address text, epoch, user, op ('j' join, 'l' leave, 'r' remove), again ('' without)
-- Answer  { 'S' and | now 8 | }: stale, nothing done, ever. { 'R' and | now 8 | }, and for each request
--       | 1 done | mseq 8 | before 8 | members 8 |, | 2 already | mseq 8 | members 8 |, | 3 no member |, | 4 full |,
--       | 5 in force |, or | 255 why |
--
-- A row of the log is | mseq 8 | join 1 | n 1 | user n |; behind it stands the number that it was given first, 8 bytes, where
-- it was asked again.
local now = clock()
if now > tonumber(ARGV[1]) then return { 'S' .. pack('>I8', now) } end
local life = life_ms(tonumber(ARGV[2]))
local members_max, changes_max = tonumber(ARGV[3]), tonumber(ARGV[4])

-- What changed in each group, by its address, and the addresses in order.
local changed, order = {}, {}

-- The ends of logs, as far as they were read for changes that are asked again: user -> his newest number and the one that
-- it was given first.
local ends = {}

-- Reads a log from the end back to a number: nothing that stands before it was given a higher one.
local function end_of(key, again, length)
  local log = ends[key] or { newest = {}, read = 0, lowest = math.huge }
  ends[key] = log
  while log.lowest >= again and log.read < length do
    local rows = call('LRANGE', key, -(log.read + 64), -(log.read + 1))
    for i = #rows, 1, -1 do
      local row = rows[i]
      local number, after = unpack_struct('>I8', row), 11 + byte(row, 10)
      local user = sub(row, 11, after - 1)
      local first = #row > after and unpack_struct('>I8', row, after) or number
      log.newest[user] = log.newest[user] or { number, first }
      log.lowest = number
    end
    log.read = log.read + #rows
  end
  return log
end

-- A change that was numbered once needs nothing where it is what holds, or where the user changed again behind it. What
-- the log cannot tell any more is not done again: a member who left must not come back.
local function is_in_force(key, user, again, joined)
  local length = call('LLEN', key)
  local oldest = length > 0 and unpack_struct('>I8', call('LINDEX', key, 0)) or 0
  local newest = end_of(key, again, length).newest[user]
  if newest and newest[1] >= oldest then return newest[1] == again or newest[2] >= again end
  if joined then return joined >= again end
  return length >= changes_max and oldest > again
end

local function write(keys, user, op, again, m, is_new, length, count)
  if is_new then
    call('UNLINK', keys.inbox)
    call('RPUSH', keys.inbox, stub(now))
  end
  local number = pack('>I8', m.v)
  local row = number .. pack('>BB', op == 'j' and 1 or 0, #user) .. user
  if op == 'j' then call('HSET', keys.members, user, number) else call('HDEL', keys.members, user) end
  call('RPUSH', keys.log, again and row .. pack('>I8', again) or row)
  if length >= changes_max then call('LTRIM', keys.log, string.format('%.0f', -changes_max), -1) end
  local log = ends[keys.log]
  if log then log.read, log.newest[user] = log.read + 1, { m.v, again or m.v } end
  local is_moved = is_new or m.expiry < due_before(now, life)
  if is_moved then m.expiry = floor(now / 1000) + life end
  save(keys.meta, m)
  local expiry = string.format('%.0f', m.expiry)
  if is_moved then
    call('PEXPIREAT', keys.inbox, expiry)
    call('PEXPIREAT', keys.cursors, expiry)
  end
  -- Members stay for ever; the log of a group that has none is gone with its record.
  if count == 0 then call('PEXPIREAT', keys.log, expiry) elseif count == 1 and op == 'j' then call('PERSIST', keys.log) end
  return row
end

local function one_request(key, at)
  local keys = { meta = KEYS[key], inbox = KEYS[key + 1], cursors = KEYS[key + 2], members = KEYS[key + 3],
    log = KEYS[key + 4] }
  local of, epoch, user, op, again = ARGV[at], ARGV[at + 1], ARGV[at + 2], ARGV[at + 3], tonumber(ARGV[at + 4])
  local joined = call('HGET', keys.members, user)
  joined = joined and unpack_struct('>I8', joined)
  local count = call('HLEN', keys.members)
  if again then
    if is_in_force(keys.log, user, again, joined) then return '\5' end
  elseif op == 'j' and joined then
    return pack('>BI8I8', 2, joined, count)
  elseif op == 'l' and not joined then
    return '\3'
  end
  if op == 'j' and not joined and count >= members_max then return '\4' end
  local length = call('LLEN', keys.log)
  local newest = length > 0 and unpack_struct('>I8', call('LINDEX', keys.log, -1)) or 0
  local m, rest = load_record(keys.meta, keys.inbox)
  local is_new = not m
  if is_new then
    m = begin(epoch, now, life, of, rest)
  end
  local nodes = nodes_of(m.tail)
  -- Behind everything that was ever seen of this group, also of a record that expired and of a history that was lost.
  local before = m.v
  m.v = max(now, before + 1, newest + 1, (again or 0) + 1)
  count = count + (op == 'j' and not joined and 1 or 0) - (op ~= 'j' and joined and 1 or 0)
  -- Nothing above writes, and what follows finds its keys as they should be.
  local row = write(keys, user, op, again, m, is_new, length, count)
  if #nodes > 0 then
    if not changed[of] then
      changed[of] = { before = before, rows = {}, nodes = nodes }
      order[#order + 1] = of
    end
    local one = changed[of]
    one.rows[#one.rows + 1], one.version, one.count = row, m.v, count
  end
  return pack('>BI8I8I8', 1, m.v, before, count)
end

local answers, at = { 'R' .. pack('>I8', now) }, 7
for key = 1, #KEYS, 5 do
  local ok, answer = pcall(one_request, key, at)
  answers[#answers + 1] = ok and answer or '\255' .. sub(message(answer), 1, 200)
  at = at + 5
end

for _, of in ipairs(order) do
  local one = changed[of]
  local body = 'm' .. pack('>I8I8', one.before, one.count) .. concat(one.rows)
  for _, node in ipairs(one.nodes) do tell(node, of, one.version, body) end
end
publish_told(ARGV[5], ARGV[6])
return answers
