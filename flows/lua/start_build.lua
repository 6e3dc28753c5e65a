-- Begin the build of a graph, unless one of it runs or has succeeded.
--
-- KEYS: [1] the build's hash.  ARGV: [1] id of the new build; [2] checksum; [3] by; [4] lease in seconds;
-- [5] seconds to keep.  Replies: {'begun' | 'kept' | 'running' | 'busy', id of the build}.
-- kept: that checksum is built. running: a live build of it. busy: a live build of another checksum.
local now = redis.call('TIME')
local known = redis.call('HMGET', KEYS[1], 'status', 'checksum', 'build', 'lease')
local status, checksum, build, lease = known[1], known[2], known[3], tonumber(known[4] or '')

if status == 'success' and checksum == ARGV[2] then
  redis.call('EXPIRE', KEYS[1], ARGV[5])
  return {'kept', build}
end
local is_live = (status == 'started' or status == 'in_progress') and lease and lease > tonumber(now[1])
if is_live then
  return {checksum == ARGV[2] and 'running' or 'busy', build}
end
redis.call('DEL', KEYS[1])
redis.call('HSET', KEYS[1], 'status', 'started', 'build', ARGV[1], 'checksum', ARGV[2], 'by', ARGV[3], 'at', now[1],
           'lease', now[1] + ARGV[4], 'progress', 0, 'faults', '[]', 'error', '')
redis.call('EXPIRE', KEYS[1], ARGV[5])
return {'begun', ARGV[1]}
