-- audience: how many users are connected to a group: the sum of what each node says of itself, in the place of a device.
--
-- KEYS  meta
-- Answer  the number; 0 where there is no record
local raw, sum = call('GET', KEYS[1]), 0
if raw then
  each_location(parse(raw).tail, function(_, _, _, device)
    local users = string.find(device, '^%d+$') and tonumber(device)
    if users and users < 4294967296 then sum = sum + users end
  end)
end
return string.format('%.0f', sum)
