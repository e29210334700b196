-- Gives back what processes without a heartbeat held, and forgets dead letters that are old.
--
-- KEYS[1]  the broker's namespace: {ns}:{queue} waiting ids, {ns}:{queue}.msgs id -> message,
--          {ns}:__acks__.{process}.{queue} ids in a process's hands, {ns}:__heartbeats__ process -> milliseconds,
--          {ns}:{queue}.XQ dead ids by time, {ns}:{queue}.XQ.msgs
-- ARGV     heartbeat timeout and age of dead letters in milliseconds, then the queues, delayed ones by name
--
-- Answers how many messages went back. Time is the server's. No search over all keys: the queues are known.

local ns = KEYS[1]
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local back = 0

for _, process in ipairs(redis.call('ZRANGEBYSCORE', ns .. ':__heartbeats__', 0, now - ARGV[1])) do
  for i = 3, #ARGV do
    local queue = ns .. ':' .. ARGV[i]
    local held = ns .. ':__acks__.' .. process .. '.' .. ARGV[i]
    for _, id in ipairs(redis.call('SMEMBERS', held)) do
      if redis.call('HEXISTS', queue .. '.msgs', id) == 1 then
        redis.call('LPUSH', queue, id)
        back = back + 1
      end
    end
    redis.call('DEL', held)
  end
  redis.call('ZREM', ns .. ':__heartbeats__', process)
end

for i = 3, #ARGV do
  local dead = ns .. ':' .. ARGV[i] .. '.XQ'
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', dead, 0, now - ARGV[2], 'LIMIT', 0, 1000)) do
    redis.call('ZREM', dead, id)
    redis.call('HDEL', dead .. '.msgs', id)
  end
end

return back
