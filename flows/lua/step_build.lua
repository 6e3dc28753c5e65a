-- Write what a build came to, if it is still the one that runs.
--
-- KEYS: [1] the build's hash.  ARGV: [1] id of the build; [2] lease in seconds; [3] seconds to keep;
-- [4...] fields and values.  Replies: 1, or 0 where another build has begun since, or this one has ended.
local known = redis.call('HMGET', KEYS[1], 'status', 'build')
if known[2] ~= ARGV[1] or (known[1] ~= 'started' and known[1] ~= 'in_progress') then
  return 0
end
redis.call('HSET', KEYS[1], 'lease', redis.call('TIME')[1] + ARGV[2], unpack(ARGV, 4))
redis.call('EXPIRE', KEYS[1], ARGV[3])
return 1
