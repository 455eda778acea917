-- groups_of: the groups of a user.
--
-- KEYS  meta, set
-- Answer  { 'G' and | version 8 | }, and the groups; or { 'E' why }
local function answer()
  local raw = call('GET', KEYS[1])
  local out = call('HKEYS', KEYS[2])
  table.insert(out, 1, 'G' .. pack('>I8', raw and parse(raw).v or 0))
  return out
end

local ok, said = pcall(answer)
return ok and said or { 'E' .. sub(message(said), 1, 200) }
