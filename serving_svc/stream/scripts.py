"""What is done in Redis as one atomic step (Lua, run by Redis >= 7 and Valkey alike)."""

from __future__ import annotations

FINISH = """
-- KEYS: source, results, dead letters, answered ids, progress.
-- ARGV: group, dedupe window (ms), most ids, most results, then for each event: kind, entry id,
-- event id, number of fields and values, and these.
-- An entry that the group has not pending is finished already, by whoever it was taken over from.
-- What it leads to is appended before it is acknowledged: an error half-way loses nothing.
local source, answered, progress = KEYS[1], KEYS[4], KEYS[5]
local targets = {result = KEYS[2], dead = KEYS[3]}
local group, window, most_ids, most_results = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local counts = {result = 0, dead = 0, ['repeat'] = 0}
local at = 5
while at <= #ARGV do
  local kind, entry, event, size = ARGV[at], ARGV[at + 1], ARGV[at + 2], tonumber(ARGV[at + 3])
  if #redis.call('XPENDING', source, group, entry, entry, 1) == 1 then
    local known = kind ~= 'dead' and redis.call('ZSCORE', answered, event)
    if known then
      kind = 'repeat'
    end
    if targets[kind] then
      local call = {'XADD', targets[kind], 'MAXLEN', '~', most_results, '*'}
      for field = at + 4, at + 3 + size do
        call[#call + 1] = ARGV[field]
      end
      redis.call(unpack(call))
    end
    if kind == 'result' then
      redis.call('ZADD', answered, now, event)
    end
    if kind ~= 'repeat' or known then
      redis.call('XACK', source, group, entry)
      counts[kind] = counts[kind] + 1
      redis.call('HINCRBY', progress, kind, 1)
    end
  end
  at = at + 4 + size
end
redis.call('ZREMRANGEBYSCORE', answered, '-inf', now - window)
redis.call('ZREMRANGEBYRANK', answered, 0, -1 - most_ids)
redis.call('PEXPIRE', answered, window)
return {counts.result, counts.dead, counts['repeat']}
"""

OPEN = """
-- KEYS: source, progress. ARGV: group, where to begin.
-- One that was removed with its scorer is not made again, whoever still works for it. One that was
-- lost with its stream begins with all that has come since.
if redis.call('HEXISTS', KEYS[2], 'deleted') == 1 then
  return 0
end
local start = ARGV[2]
if redis.call('HEXISTS', KEYS[2], 'opened') == 1 then
  start = '0'
end
local made = redis.pcall('XGROUP', 'CREATE', KEYS[1], ARGV[1], start, 'MKSTREAM')
if made.err and not string.find(made.err, 'BUSYGROUP') then
  return made
end
redis.call('HSET', KEYS[2], 'opened', 1)
return 1
"""

FORGET = """
-- KEYS: source, progress, answered ids. ARGV: group, seconds for which it cannot be made again.
if redis.call('EXISTS', KEYS[1]) == 1 then
  redis.call('XGROUP', 'DESTROY', KEYS[1], ARGV[1])
end
redis.call('DEL', KEYS[2], KEYS[3])
redis.call('HSET', KEYS[2], 'deleted', 1)
redis.call('EXPIRE', KEYS[2], ARGV[2])
return 1
"""

LEAVE = """
-- KEYS: source. ARGV: group, a consumer that leaves, idle time (ms) after which any is dropped.
-- A consumer with entries pending stays: they would be lost with it.
local gone = 0
for _, facts in ipairs(redis.call('XINFO', 'CONSUMERS', KEYS[1], ARGV[1])) do
  local consumer = {}
  for at = 1, #facts, 2 do
    consumer[facts[at]] = facts[at + 1]
  end
  local old = consumer.name == ARGV[2] or consumer.idle > tonumber(ARGV[3])
  if old and consumer.pending == 0 then
    redis.call('XGROUP', 'DELCONSUMER', KEYS[1], ARGV[1], consumer.name)
    gone = gone + 1
  end
end
return gone
"""
