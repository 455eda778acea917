-- holds: whether entries are where they were stored, or were trimmed there.
--
-- KEYS  meta and inbox of each request
-- ARGV  cursor 24 of each request
-- Answer  a byte for each: '1' or '0'
local out = {}
for i = 1, #ARGV do
  local ok, is_there = pcall(function()
    local m, length = load_record(KEYS[2 * i - 1], KEYS[2 * i])
    local why = m and check(m, length, KEYS[2 * i], ARGV[i])
    return m and (not why or why == RETENTION)
  end)
  out[i] = ok and is_there and '1' or '0'
end
return concat(out)
