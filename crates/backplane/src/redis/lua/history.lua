-- history: entries before a place, or the newest.
--
-- KEYS  meta, inbox
-- ARGV  before (24 bytes, or '' for the end), limit, bytes
-- Answer  an array: a head and the entries, oldest first. Heads: | 'H' | epoch 8 | seq 8 | stamp 8 | more 1 | with the place
--       before the first entry, | 'G' | no record, | 'B' | `before` is no place of this inbox
local before, limit, bytes_max = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local m, length = load_record(KEYS[1], KEYS[2])
if not m then return { 'G' } end
local after = length
if before ~= '' then
  local why = check(m, length, KEYS[2], before)
  if why == RETENTION then
    after = 0
  elseif why then
    return { 'B' }
  else
    after = unpack_struct('>I8', before, 9) - m.b
  end
end
local rows, first, taken, is_full = {}, after, 0, false
while first > 1 and after - first < limit and not is_full do
  local from = max(first - min(16, limit - (after - first)), 1)
  local chunk = call('LRANGE', KEYS[2], from, first - 1)
  for i = #chunk, 1, -1 do
    taken = taken + #chunk[i]
    if first < after and taken > bytes_max then
      is_full = true
      break
    end
    rows[#rows + 1] = chunk[i]
    first = first - 1
  end
end
local base = max(first - 1, 0)
local entry = call('LINDEX', KEYS[2], base)
local out = { 'H' .. m.epoch .. pack('>I8I8B', m.b + base, stamp_of(entry), first > 1 and 1 or 0) }
for i = #rows, 1, -1 do out[#out + 1] = rows[i] end
return out
