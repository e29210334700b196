-- How much of sliding windows is used; changes nothing.
--
-- KEYS[i]               tocsin:limit:…  sorted set: notification id -> microseconds when it was charged
-- ARGV[2i-1], ARGV[2i]  limit, window in microseconds
--
-- Answers for each: how many are in the window, and when there is room for one more than now, in microseconds; 0 when
-- none is in it.

local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local answers = {}

for i, key in ipairs(KEYS) do
  local limit, window = tonumber(ARGV[2 * i - 1]), tonumber(ARGV[2 * i])
  local begun = string.format('(%.0f', now - window)
  local used, frees = redis.call('ZCOUNT', key, begun, '+inf'), 0
  if used > 0 then -- more than the limit, where that was lowered
    local next = redis.call('ZRANGE', key, begun, '+inf', 'BYSCORE', 'LIMIT', math.max(0, used - limit), 1, 'WITHSCORES')
    frees = next[2] + window
  end
  answers[i] = { used, frees }
end

return answers
