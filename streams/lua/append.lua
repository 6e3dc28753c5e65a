-- Append one batch of a turn, or events without a turn, to a chat's log.
--
-- Before it stands PUBLISH: that word, or SPUBLISH on a cluster.
-- ARGV: [3] the writer's epoch; [4] channel (no key: as one it would be missing while a slot moves, and each call told
-- to come again); [5] turn (16 bytes, or empty); [6] attempt; [7] n; [8] '1' if the batch ends the turn; [9] events to
-- keep; [10] bytes to keep at most, though they be fewer events; [11...] events without their `{"seq":N,`.
-- Replies: {'ok', epoch, first, last} | {'kept', epoch, first, last} (written before) | {'fenced'} | {'epoch', epoch}.
--
-- meta, besides epoch, seq and replid: `t<turn>` = "attempt n first last start ended" (first and last of the last
-- numbered batch, after the end of the end; start: where its events begin; kept as long as meta, or a writer that
-- wakes late would not be known for one); `open`: 16 bytes of turn and 16 digits of start for each unfinished;
-- `bytes`: of all events of this epoch; `marks`: 16 digits of bytes and 16 of seq, one for each eighth of what is kept.
local turn, attempt, n = ARGV[5], tonumber(ARGV[6]), tonumber(ARGV[7])
local ends = ARGV[8] == '1'
local kept_events, kept_bytes = tonumber(ARGV[9]), tonumber(ARGV[10])
local FRAMES = 11

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
local counted = redis.call('HMGET', meta, 'bytes', 'marks')
local bytes, marks = tonumber(counted[1] or '0'), counted[2] or ''
for i = 1, #frames do
  bytes = bytes + #frames[i]
end
local marked = #marks > 0 and tonumber(string.sub(marks, -32, -17)) or 0
local is_marked = bytes - marked >= kept_bytes / 8
if is_marked then
  marks = marks .. string.format('%016d%016d', bytes, seq)
end
local written = {'seq', seq, 'bytes', bytes}
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
    written[#written + 1], written[#written + 2] = 'open', open
  end
  if is_known or ends or attempt > 0 then
    written[#written + 1] = field
    written[#written + 1] = string.format('%d %d %d %d %d %d', held.attempt, held.n, held.first, held.last,
                                          held.start, held.ended)
  end
end

-- The first seq that stays: `floor` events or bytes back, but nothing of an unfinished turn goes.
local function kept_from(floor)
  open = open or redis.call('HGET', meta, 'open') or ''
  for i = 1, #open, 32 do
    floor = math.min(floor, tonumber(string.sub(open, i + 16, i + 31)))
  end
  return floor
end

if is_marked or (ends and #marks > 0) then
  local floor, past = 0, 0
  for i = 1, #marks, 32 do
    local at = tonumber(string.sub(marks, i + 16, i + 31))
    if bytes - tonumber(string.sub(marks, i, i + 15)) < kept_bytes or kept_from(at + 1) <= at then
      break
    end
    floor, past = at + 1, i + 31
  end
  if floor > 0 then
    marks = string.sub(marks, past + 1)
    redis.call('XTRIM', log, 'MINID', floor .. '-0')
  end
  written[#written + 1], written[#written + 2] = 'marks', marks
end

redis.call('HSET', meta, unpack(written))

if #frames > 0 then
  redis.call(PUBLISH, ARGV[4], epoch .. ' ' .. first .. ' ' .. seq .. '\n' .. table.concat(frames, '\n'))
end

if math.floor(before / 100) ~= math.floor(seq / 100) then
  local floor = kept_from(seq - kept_events + 1)
  if floor > 1 then
    redis.call('XTRIM', log, 'MINID', '~', floor .. '-0')
  end
end

return {'ok', epoch, first, seq}
