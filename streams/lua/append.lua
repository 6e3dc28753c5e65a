-- Append one batch of a turn, or events without a turn, to a chat's log.
--
-- KEYS: [3] channel.  ARGV: [3] the writer's epoch; [4] turn (16 bytes, or empty); [5] attempt; [6] n; [7] '1' if
-- the batch ends the turn; [8] events to keep; [9...] events without their `{"seq":N,`.
-- Replies: {'ok', epoch, first, last} | {'kept', epoch, first, last} (written before) | {'fenced'} | {'epoch', epoch}.
--
-- meta, besides epoch, seq and replid: `t<turn>` = "attempt n first last start ended" (first and last of the last
-- numbered batch, after the end of the end; start: where its events begin; kept as long as meta, or a writer that
-- wakes late would not be known for one), and `open`: 16 bytes of turn and 16 digits of start for each unfinished.
local turn, attempt, n = ARGV[4], tonumber(ARGV[5]), tonumber(ARGV[6])
local ends = ARGV[7] == '1'
local kept_events = tonumber(ARGV[8])
local FRAMES = 9

if ARGV[3] ~= epoch then
  return {'epoch', epoch}
end

local field = 't' .. turn
local held = {attempt = 0, n = 0, first = 0, last = 0, start = 0, ended = 0}
local is_known = false
if turn ~= '' then
  local entry = redis.call('HGET', meta, field)
  if entry then
    is_known = true
    local a, b, c, d, e, f = string.match(entry, '(%d+) (%d+) (%d+) (%d+) (%d+) (%d+)')
    held = {attempt = tonumber(a), n = tonumber(b), first = tonumber(c), last = tonumber(d), start = tonumber(e),
            ended = tonumber(f)}
    if attempt < held.attempt then
      return {'fenced'}
    end
    if held.ended == 1 then
      if ends then
        return {'kept', epoch, held.first, held.last}
      end
      return {'fenced'}
    end
    if attempt == held.attempt and n > 0 and n <= held.n then
      return {'kept', epoch, held.first, held.last}
    end
  end
  if attempt > held.attempt then
    held.attempt, held.n, held.first, held.last = attempt, 0, 0, 0
  end
end

local before, first = seq, seq + 1
local frames = {}
for i = FRAMES, #ARGV do
  seq = seq + 1
  local frame = '{"seq":' .. seq .. ',' .. ARGV[i]
  redis.call('XADD', log, seq .. '-0', 'f', frame)
  frames[#frames + 1] = frame
end
if before == 0 and seq > 0 then
  live()
end

local open
local written = {'seq', seq}
if turn ~= '' then
  if n > 0 or ends then
    held.n, held.first, held.last = math.max(n, held.n), first, seq
  end
  if held.start == 0 and attempt > 0 and #frames > 0 then
    held.start = first
    open = (redis.call('HGET', meta, 'open') or '') .. turn .. string.format('%016d', first)
  end
  if ends then
    held.ended = 1
    local all = open or redis.call('HGET', meta, 'open') or ''
    open = ''
    for i = 1, #all, 32 do
      if string.sub(all, i, i + 15) ~= turn then
        open = open .. string.sub(all, i, i + 31)
      end
    end
  end
  if open then
    written[3], written[4] = 'open', open
  end
  if is_known or ends or attempt > 0 then
    written[#written + 1] = field
    written[#written + 1] = string.format('%d %d %d %d %d %d', held.attempt, held.n, held.first, held.last,
                                          held.start, held.ended)
  end
end
redis.call('HSET', meta, unpack(written))

if #frames > 0 then
  redis.call('PUBLISH', KEYS[3], epoch .. ' ' .. first .. ' ' .. seq .. '\n' .. table.concat(frames, '\n'))
end

if math.floor(before / 100) ~= math.floor(seq / 100) then
  local floor = seq - kept_events + 1
  open = open or redis.call('HGET', meta, 'open') or ''
  for i = 1, #open, 32 do
    floor = math.min(floor, tonumber(string.sub(open, i + 16, i + 31)))
  end
  if floor > 1 then
    redis.call('XTRIM', log, 'MINID', '~', floor .. '-0')
  end
end

return {'ok', epoch, first, seq}
