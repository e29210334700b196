-- Charges notifications against sliding windows, one call per batch.
--
-- KEYS[i]  tocsin:limit:{type}:{user}  sorted set: notification id -> microseconds when it was charged
-- ARGV[3i-2], ARGV[3i-1], ARGV[3i]  notification id, limit, window in microseconds
--
-- Answers 1 (within the limit) or 0 for each. An id that was charged before is within the limit again at no
-- charge, so a redelivered batch changes nothing. What left the window is removed when room is needed. Time is the server's: no worker's clock can matter.

local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local score = string.format('%.0f', now)
local answers = {}

for i, key in ipairs(KEYS) do
  local id, limit, window = ARGV[3 * i - 2], tonumber(ARGV[3 * i - 1]), tonumber(ARGV[3 * i])
  local charged = redis.call('ZCARD', key)
  if charged >= limit then
    charged = charged - redis.call('ZREMRANGEBYSCORE', key, '-inf', string.format('%.0f', now - window))
  end
  if charged < limit then
    if redis.call('ZADD', key, 'NX', score, id) == 1 then
      redis.call('PEXPIRE', key, string.format('%.0f', window / 1000))
    end
    answers[i] = 1
  else
    answers[i] = redis.call('ZSCORE', key, id) and 1 or 0
  end
end

return answers
