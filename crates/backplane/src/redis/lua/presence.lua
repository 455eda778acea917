-- presence: how users are; and this node wants to hear of their changes for a while. Whoever asks looks where they are, too:
-- a detach while a slot was on its way wrote nothing here.
--
-- KEYS  meta, presence and watchers of each user
-- ARGV  publish command, channel prefix, node ('' to ask only), for how long in ms, then the address text of each user
-- Answer  for each user the fields and values of his presence in turn, or one text: why there is none
local node, now = ARGV[3], clock()

local function one_user(key, record)
  local keys = { meta = KEYS[key], presence = KEYS[key + 1], watchers = KEYS[key + 2] }
  local raw = call('GET', keys.meta)
  local m = raw and parse(raw)
  pcall(settle_presence, keys, record, m and m.tail or '', m and m.v or 0, now)
  if node ~= '' then
    local watch_ms = tonumber(ARGV[4])
    local there = tonumber(call('HGET', keys.watchers, node) or 0)
    -- A shorter time does not take back a longer one.
    call('HSET', keys.watchers, node, string.format('%.0f', max(there, floor(now / 1000) + watch_ms)))
    -- The fields say who is to hear; the hash goes when the last of them is long over.
    local life = watch_ms + 60000
    if call('PTTL', keys.watchers) < life then call('PEXPIRE', keys.watchers, string.format('%.0f', life)) end
  end
  return call('HGETALL', keys.presence)
end

local answers = {}
for key = 1, #KEYS, 3 do
  local ok, answer = pcall(one_user, key, ARGV[5 + (key - 1) / 3])
  answers[#answers + 1] = ok and answer or sub(message(answer), 1, 200)
end
publish_told(ARGV[1], ARGV[2])
return answers
