-- Take a place for everybody it is to count for, or for nobody where one of them has too many.
--
-- KEYS: of each of them the places, scored with the millisecond, by this server's clock, until which they count.
-- ARGV: [1] the place; [2] milliseconds that it counts; [3...] of each key the most places.
-- Reply: 1, or 0: one of them has as many as he may, and nothing was added. Safe to repeat.
local place, kept_ms = ARGV[1], ARGV[2]
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

for i, key in ipairs(KEYS) do
  redis.call('ZREMRANGEBYSCORE', key, '-inf', now)
  if redis.call('ZCARD', key) >= tonumber(ARGV[i + 2]) and not redis.call('ZSCORE', key, place) then
    return 0
  end
end
for _, key in ipairs(KEYS) do
  redis.call('ZADD', key, now + kept_ms, place)
  redis.call('PEXPIRE', key, kept_ms)
end
return 1
