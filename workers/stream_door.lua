-- Closes the stream's door when too much waits behind it, and opens it when that has drained; see stream_door.py.
--
-- KEYS[1] the stream; ARGV[1] closes above this many entries, ARGV[2] opens below this many.
-- Answers what changed ('closed', 'open' or '') and how many entries there are. Safe to repeat, by anybody.

local LAST = '18446744073709551615-18446744073709551615'

local function table_of(reply)
    local found = {}
    for place = 1, #reply, 2 do
        found[reply[place]] = reply[place + 1]
    end
    return found
end

-- Ids are pairs of 64-bit numbers, which Lua's are not: with zeros in front, texts compare alike.
local function padded(id)
    local ms, seq = string.match(id, '^(%d+)-(%d+)$')
    return string.rep('0', 20 - #ms) .. ms .. '-' .. string.rep('0', 20 - #seq) .. seq
end

if redis.call('EXISTS', KEYS[1]) == 0 then
    return {'', 0}
end
local stream = table_of(redis.call('XINFO', 'STREAM', KEYS[1]))
local length, closed = stream['length'], stream['last-generated-id'] == LAST

if not closed and length > tonumber(ARGV[1]) then
    redis.call('XSETID', KEYS[1], LAST)
    return {'closed', length}
end

if closed and length < tonumber(ARGV[2]) then
    -- What comes next must be newer than all that ever was: what is there, what was deleted, what a group has
    -- read, and, for what was trimmed, the time.
    local time = redis.call('TIME')
    local ids = {string.format('%.0f-0', time[1] * 1000 + math.floor(time[2] / 1000))}
    table.insert(ids, stream['max-deleted-entry-id'] or '0-0')
    if stream['last-entry'] then
        table.insert(ids, stream['last-entry'][1])
    end
    for _, group in ipairs(redis.call('XINFO', 'GROUPS', KEYS[1])) do
        table.insert(ids, table_of(group)['last-delivered-id'])
    end
    local newest = ids[1]
    for _, id in ipairs(ids) do
        if padded(id) > padded(newest) then
            newest = id
        end
    end
    redis.call('XSETID', KEYS[1], newest)
    return {'open', length}
end

return {'', length}
