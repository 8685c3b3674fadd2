-- What wrk sends, in turn, and what it says of it at the end: one JSON object, in the last line.
--   wrk --script wrk.lua URL -- POST FILE KEY     the bodies are the lines of FILE, to URL itself
--   wrk --script wrk.lua URL -- GET FILE KEY      the paths are the lines of FILE
local requests, turn = {}, 0

function init(args)
  local method, file, key = args[1], args[2], args[3]
  wrk.headers["Authorization"] = "Bearer " .. key
  for line in io.lines(file) do
    if method == "POST" then
      wrk.headers["Content-Type"] = "application/json"
      requests[#requests + 1] = wrk.format("POST", nil, nil, line)
    else
      requests[#requests + 1] = wrk.format("GET", line)
    end
  end
end

function request()
  turn = turn % #requests + 1
  return requests[turn]
end

function done(summary, latency, _)
  local errors = summary.errors
  io.write(string.format(
    '\n{"requests": %d, "time_us": %d, "p50_us": %d, "p99_us": %d, "refused": %d, "broken": %d}\n',
    summary.requests, summary.duration, latency:percentile(50), latency:percentile(99), errors.status,
    errors.connect + errors.read + errors.write + errors.timeout))
end
