-- part: some of the fields of a hash with their values: a group's members, or the places that a record keeps.
--
-- KEYS  the hash
-- ARGV  where to go on ('0' at first), about how many
-- Answer  { 'P' and | fields in all 8 |, where to go on ('0' at the end), field, value, … }; or { 'E' why }
local function answer()
  local total = call('HLEN', KEYS[1])
  local part = call('HSCAN', KEYS[1], ARGV[1], 'COUNT', ARGV[2])
  local out = part[2]
  table.insert(out, 1, part[1])
  table.insert(out, 1, 'P' .. pack('>I8', total))
  return out
end

local ok, said = pcall(answer)
return ok and said or { 'E' .. sub(message(said), 1, 200) }
