-- Stands first in append.lua and read.lua: is what these keys hold one history of this server?
--
-- KEYS: meta, log (one hash tag).  ARGV: [1] id for an epoch, fresh for each sending; [2] seconds to keep.
-- An epoch ends with the server's replication id (a restart, a promotion), with its meta, or when the log's last
-- id is not meta's seq (rolled back). Then both keys go and a new epoch begins at 0.
local meta, log = KEYS[1], KEYS[2]
local kept_s = tonumber(ARGV[2])
local replid = string.match(redis.call('INFO', 'replication'), 'master_replid:(%w+)')
local known = redis.call('HMGET', meta, 'epoch', 'seq', 'replid')
local epoch, seq = known[1], tonumber(known[2] or '')

local is_whole = epoch and seq and known[3] == replid
if is_whole then
  local last = redis.call('XREVRANGE', log, '+', '-', 'COUNT', 1)[1]
  is_whole = (last and last[1] or '0-0') == known[2] .. '-0'
end

-- Some slack, so that the time to live is not written (to the append-only file, to replicas) at each event.
local function live()
  local ttl = kept_s + math.floor(kept_s / 6) + 1
  redis.call('EXPIRE', meta, ttl)
  redis.call('EXPIRE', log, ttl)
end

if not is_whole then
  redis.call('DEL', meta, log)
  epoch, seq = ARGV[1], 0
  redis.call('HSET', meta, 'epoch', epoch, 'seq', 0, 'replid', replid)
  -- An empty log: while a slot moves, a call of which one key is there and the other is not would be told to come again.
  redis.call('XGROUP', 'CREATE', log, 'none', 0, 'MKSTREAM')
  redis.call('XGROUP', 'DESTROY', log, 'none')
  live()
elseif redis.call('TTL', meta) < kept_s then
  live()
end
