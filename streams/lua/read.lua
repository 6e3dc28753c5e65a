-- Epoch, top and events of a chat's log in one step. Begins an epoch where there is none.
--
-- ARGV: [3] the seq after which to read; [4] most events, -1 all, 0 none; [5] most bytes, -1 all (one event always).
-- Reply: {epoch, top, first seq that the log still has (0: none), first seq read, frames}.
local from, limit, bytes = ARGV[3] + 1, tonumber(ARGV[4]), tonumber(ARGV[5])
local kept, frames = 0, {}

if limit ~= 0 and seq > 0 then
  kept = tonumber(string.match(redis.call('XRANGE', log, '-', '+', 'COUNT', 1)[1][1], '^%d+'))
  from = math.max(from, kept)
  if from <= seq then
    local start = string.format('%d-0', from)
    local entries
    if limit < 0 then
      entries = redis.call('XRANGE', log, start, '+')
    else
      entries = redis.call('XRANGE', log, start, '+', 'COUNT', limit)
    end
    local size = 0
    for i, entry in ipairs(entries) do
      local frame = entry[2][2]
      size = size + #frame
      if bytes >= 0 and size > bytes and i > 1 then
        break
      end
      frames[i] = frame
    end
  end
end

return {epoch, seq, kept, from, frames}
