-- changes: what changed in a group behind a number.
--
-- KEYS  meta, members, log
-- ARGV  the number
-- Answer  { 'C' and | version 8 | members 8 | known 1 | }, and the rows of the log behind the number, where it is known: it
--       is the newest one, or in the log; { 'E' why }
local function answer()
  local after = tonumber(ARGV[1])
  local raw = call('GET', KEYS[1])
  local version, count, length = raw and parse(raw).v or 0, call('HLEN', KEYS[2]), call('LLEN', KEYS[3])
  local head = 'C' .. pack('>I8I8', version, count)
  if after == version then return { head .. '\1' } end
  -- Numbers grow along the log.
  local from, to = 0, length - 1
  while from <= to do
    local middle = floor((from + to) / 2)
    local number = unpack_struct('>I8', call('LINDEX', KEYS[3], middle))
    if number == after then
      local out = call('LRANGE', KEYS[3], middle + 1, -1)
      table.insert(out, 1, head .. '\1')
      return out
    end
    if number < after then from = middle + 1 else to = middle - 1 end
  end
  return { head .. '\0' }
end

local ok, said = pcall(answer)
return ok and said or { 'E' .. sub(message(said), 1, 200) }
