-- Puts answers, each unless a later one is there, and moves the mark of their partition; all of it at once.
-- KEYS: the mark, then the keys. ARGV: the mark to follow ('' for none), the mark to leave, then for each key its answer, the
-- version at the answer's end, and when it expires in milliseconds since 1970 ('' for never).
-- Answers 'moved' when the mark is another one; else 'ok', and for each key '' when it is there, the version of a later
-- answer, or 'foreign' when what is there is none of ours.
local mark = redis.call('GET', KEYS[1]) or ''
if mark ~= ARGV[1] and mark ~= ARGV[2] then
  return {'moved'}
end
local outcomes = {'ok'}
for i = 2, #KEYS do
  local answer, version, expires = ARGV[3 * i - 3], ARGV[3 * i - 2], ARGV[3 * i - 1]
  -- ,"version":"<64 digits>"} is at the end of each answer: reading it costs the same however long that is.
  local tail = redis.pcall('GETRANGE', KEYS[i], -78, -1)
  local held = type(tail) == 'string' and string.match(tail, '^,"version":"(%x+)"}$')
  local outcome = ''
  if tail ~= '' and not held then
    outcome = 'foreign'
  elseif held and held > version then
    outcome = held
  elseif held ~= version then
    redis.call('SET', KEYS[i], answer)
    if expires ~= '' then
      redis.call('PEXPIREAT', KEYS[i], expires)
    end
  end
  outcomes[i] = outcome
end
redis.call('SET', KEYS[1], ARGV[2])
return outcomes
