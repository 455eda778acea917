-- What the scripts share that tell nodes something beside messages: read behind common.lua.
--
-- A presence is a hash: version, online ('1' or '0'), at (ms), profile (JSON), and '+' with a device's name -> since when it
-- is here, in ms. The rules are those of delivery/src/presence.rs. Watchers are a hash: node -> until when, in ms.

-- What a call has to say to nodes, beside what it stores: one payload a node.
local told, told_order = {}, {}

local function tell(node, record, v, body)
  if not told[node] then
    told[node] = { '\1' }
    told_order[#told_order + 1] = node
  end
  table.insert(told[node], pack('>BI2', 3, #record) .. record .. STUB_TAG .. pack('>I8I8I8I4', 0, 0, v, #body) .. body)
end

-- The same to every node where an address is.
local function tell_all(record, m, body)
  for _, node in ipairs(nodes_of(m.tail)) do tell(node, record, m.v, body) end
end

-- Only hints: nothing of what is stored depends on whether they come.
local function publish_told(command, prefix)
  for i = 1, #told_order do
    pcall_redis(command, prefix .. told_order[i], concat(told[told_order[i]]))
  end
end

-- Compares where a user is with what was said of him last, writes the difference, and tells those who watch him. Whoever
-- changes locations calls it, and a verify always: so a difference that nobody wrote is found. `keys` names presence and
-- watchers; meta stands for them where they may not be named, and for what is no user.
local function settle_presence(keys, record, tail, v, now, profile, is_moved)
  if keys.presence == keys.meta then return end
  local flat, there = call('HGETALL', keys.presence), {}
  for i = 1, #flat, 2 do there[flat[i]] = flat[i + 1] end
  local ms = floor(now / 1000)
  local at = string.format('%.0f', ms)
  local new, gone, here = {}, {}, {}
  each_location(tail, function(_, connection, _, device)
    local name = device
    if name == '' then name = string.gsub(connection, '.', function(one) return string.format('%02x', byte(one)) end) end
    name = '+' .. name
    if not here[name] and not there[name] then
      new[#new + 1] = name
      new[#new + 1] = at
    end
    here[name] = true
  end)
  for i = 1, #flat, 2 do
    if byte(flat[i]) == 43 and not here[flat[i]] then gone[#gone + 1] = flat[i] end
  end
  if profile and profile ~= there.profile then
    new[#new + 1] = 'profile'
    new[#new + 1] = profile
  end
  local is_online, body = tail ~= '', nil
  if is_online ~= (there.online == '1') then
    local version = max((tonumber(there.version) or 0) + 1, ms)
    for _, one in ipairs({ 'version', string.format('%.0f', version), 'online', is_online and '1' or '0', 'at', at }) do
      new[#new + 1] = one
    end
    body = 'p' .. pack('>I8BI8', version, is_online and 1 or 0, ms)
  end
  if #new > 0 then call('HSET', keys.presence, unpack(new)) end
  if #gone > 0 then call('HDEL', keys.presence, unpack(gone)) end
  if #new > 0 or is_moved then call('EXPIRE', keys.presence, 2592000) end
  if body then
    local watchers = call('HGETALL', keys.watchers)
    for i = 1, #watchers, 2 do
      if tonumber(watchers[i + 1]) > ms then
        tell(watchers[i], record, v, body)
      else
        call('HDEL', keys.watchers, watchers[i])
      end
    end
  end
end
