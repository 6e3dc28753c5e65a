-- Places that are still taken count on; one that was lost is there again, whatever the bound.
--
-- KEYS: as in take_place.lua.  ARGV: [1] milliseconds that they count from now; [2...] the place in each of KEYS.
local kept_ms = ARGV[1]
local time = redis.call('TIME')
local until_ms = time[1] * 1000 + math.floor(time[2] / 1000) + kept_ms

for i, key in ipairs(KEYS) do
  redis.call('ZADD', key, until_ms, ARGV[i + 1])
  redis.call('PEXPIRE', key, kept_ms)
end
return 1
