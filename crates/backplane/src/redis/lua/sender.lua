-- sender: the entry at a place, for who sent it.
--
-- KEYS  meta, inbox
-- ARGV  cursor 24
-- Answer  { 'F', entry }, { 'X' } trimmed, { 'N' } no message of this inbox, or { 'E' why }
local function answer()
  local m, length = load_record(KEYS[1], KEYS[2])
  if not m then return { 'N' } end
  local why = check(m, length, KEYS[2], ARGV[1])
  local seq = unpack_struct('>I8', ARGV[1], 9)
  if why == RETENTION then return { 'X' } end
  if why then return { 'N' } end
  -- The base was trimmed, or is the stub at the start.
  if seq == m.b then return { seq == 0 and 'N' or 'X' } end
  return { 'F', call('LINDEX', KEYS[2], string.format('%.0f', seq - m.b)) }
end

local ok, said = pcall(answer)
return ok and said or { 'E' .. sub(message(said), 1, 200) }
