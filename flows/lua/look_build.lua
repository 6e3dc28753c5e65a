-- The last build as it stands, kept for as long again by this look, and the server's seconds since 1970.
--
-- KEYS: the build's hash.  ARGV: seconds to keep.  Reply: {fields and values, seconds}.
local held = redis.call('HGETALL', KEYS[1])
redis.call('EXPIRE', KEYS[1], ARGV[1])
return {held, redis.call('TIME')[1]}
