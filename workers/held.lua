-- Takes messages into a process's hands, and lets go of those that are done. Keys and meaning are Dramatiq's.
--
-- KEYS[1]  the broker's namespace: {ns}:{queue} waiting ids, {ns}:{queue}.msgs id -> message,
--          {ns}:__acks__.{process}.{queue} ids in a process's hands, {ns}:__heartbeats__ process -> milliseconds
-- ARGV     fetch, process, queue, most messages, most bytes
--          ack, process, queue, id, …
--
-- fetch answers how many still wait, then id, message, id, message, …: the first whatever its size, and those after
-- it as long as all together are not larger than that. Small ones so come many at a time, large ones one by one.

local ns, command, process, queue = KEYS[1], ARGV[1], ARGV[2], ARGV[3]
local waiting, messages = ns .. ':' .. queue, ns .. ':' .. queue .. '.msgs'
local held = ns .. ':__acks__.' .. process .. '.' .. queue
local time = redis.call('TIME')
redis.call('ZADD', ns .. ':__heartbeats__', time[1] * 1000 + math.floor(time[2] / 1000), process)

if command == 'ack' then
  for i = 4, #ARGV do
    if redis.call('SREM', held, ARGV[i]) == 1 then
      redis.call('HDEL', messages, ARGV[i])
    end
  end
  return #ARGV - 3
end

local answer, bytes = {0}, 0
for i = 1, tonumber(ARGV[4]) do
  local id = redis.call('LPOP', waiting)
  if not id then
    break
  end
  bytes = bytes + redis.call('HSTRLEN', messages, id)
  if i > 1 and bytes > tonumber(ARGV[5]) then
    redis.call('LPUSH', waiting, id)
    break
  end
  redis.call('SADD', held, id)
  answer[#answer + 1] = id
  answer[#answer + 1] = redis.call('HGET', messages, id)
end
answer[1] = redis.call('LLEN', waiting)
return answer
