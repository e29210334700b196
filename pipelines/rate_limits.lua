-- Charges notifications against sliding windows, one call per batch.
--
-- A notification stands before gates: the first is its own, each further one lets it out on one channel. A gate is
-- a list of windows, and opens when all of them have room: then it is charged to each of them, and else to none.
--
-- ARGV[1]  plans as JSON: a plan is a list of gates, a gate of windows, a window [limit, microseconds]
-- ARGV[2]  "charge"; or "look", to answer the same and change nothing
-- ARGV[3]… notification id, and the number of its plan, from 1; and so on
-- KEYS     the windows of each notification's plan, one after the other
--          tocsin:limit:…  sorted set: notification id -> microseconds when it was charged
--
-- Answers for each the sum of 2^(g-1) of the gates that opened; 0 when the first did not. What was charged before to
-- a window of a gate passes that gate again at no charge, so a redelivered batch changes nothing. What left a window
-- is removed when room is needed. Time is the server's: no worker's clock can matter.

local call, format = redis.call, string.format
local plans = cjson.decode(ARGV[1])
local looking = ARGV[2] == 'look'
local time = call('TIME')
local now = time[1] * 1000000 + time[2]
local score = format('%.0f', now)
local pretended = {} -- while looking: key -> what would have been charged to it, and how many

local function room(key, limit, window)
  if looking then
    local used = call('ZCOUNT', key, format('(%.0f', now - window), '+inf')
    return used + (pretended[key] and pretended[key].count or 0) < limit
  end
  local charged = call('ZCARD', key)
  if charged >= limit then
    charged = charged - call('ZREMRANGEBYSCORE', key, '-inf', format('%.0f', now - window))
  end
  return charged < limit
end

local function holds(key, id)
  return call('ZSCORE', key, id) or pretended[key] and pretended[key][id]
end

local function charge(key, id, window)
  if not looking then
    if call('ZADD', key, 'NX', score, id) == 1 then
      call('PEXPIRE', key, format('%.0f', window / 1000))
    end
  elseif not holds(key, id) then
    pretended[key] = pretended[key] or { count = 0 }
    pretended[key].count = pretended[key].count + 1
    pretended[key][id] = true
  end
end

-- Whether a gate opens for `id`; its windows are KEYS[before + 1] and the next.
local function opens(gate, before, id)
  local windows, full = #gate, false
  for i = 1, windows do
    full = full or not room(KEYS[before + i], gate[i][1], gate[i][2])
  end
  if full or windows > 1 then -- with one window that has room, charging finds out by itself
    for i = 1, windows do
      if holds(KEYS[before + i], id) then
        return true
      end
    end
  end
  for i = 1, full and 0 or windows do
    charge(KEYS[before + i], id, gate[i][2])
  end
  return not full
end

local answers, before = {}, 0
for i = 3, #ARGV, 2 do
  local answer, bit = 0, 1
  local plan = plans[tonumber(ARGV[i + 1])]
  for number = 1, #plan do
    if (number == 1 or answer > 0) and opens(plan[number], before, ARGV[i]) then
      answer = answer + bit
    end
    bit, before = bit * 2, before + #plan[number]
  end
  answers[#answers + 1] = answer
end

return answers
