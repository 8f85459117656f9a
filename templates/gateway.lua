-- What HAProxy has no words for in its configuration: answers in Triton's form, and answers of several servers as one.
-- Loaded once in every thread.

-- The socket on which HAProxy's own metrics are to be had.
local exporter = os.getenv("TRITONKIT_EXPORTER")
local ASK_TIMEOUT = 2000
local CONTROL_TIMEOUT = 3600000

local function escaped(text)
  local result = text:gsub('[%c"\\]', function(letter) return string.format("\\u%04x", letter:byte()) end)
  return result
end

local function answer(applet, status, kind, body)
  applet:set_status(status)
  applet:add_header("content-type", kind)
  applet:add_header("content-length", tostring(#body))
  applet:start_response()
  if #body > 0 then applet:send(body) end
end

local function fail(applet, status, words)
  answer(applet, status, "application/json", '{"error":"' .. escaped(words) .. '"}')
end

-- Refuses a gRPC call, once all of it has been read, with the status and the words of the header `refusal`.
core.register_service("refuse", "http", function(applet)
  repeat local part = applet:receive(16384) until part == nil or #part == 0
  local status, words = applet.headers["refusal"][0]:match("^(%d+) (.*)$")
  applet:set_status(200)
  applet:add_header("content-type", "application/grpc")
  applet:add_header("grpc-status", status)
  applet:add_header("grpc-message", (words:gsub("[^ -$&-~]", function(letter)
    return string.format("%%%02X", letter:byte())
  end)))
  applet:start_response()
end)

-- The servers of a HAProxy backend that take requests, or finish those that they have, by name.
local function serving(backend)
  local found = {}
  for name, server in pairs(core.backends[backend].servers) do
    local status = server:get_stats()["status"]
    if status:find("^UP") or status:find("^DRAIN") or status == "no check" then
      found[#found + 1] = { name = name, address = server:get_addr() }
    end
  end
  table.sort(found, function(one, other) return one.name < other.name end)
  return found
end

-- The answers of all servers to one request, asked at once; each as {name, status, body}.
local function ask(servers, method, path, body, timeout)
  local answers, waiting = {}, #servers
  -- An idle connection would keep a tritonserver from ending.
  local headers = { ["connection"] = { "close" }, ["content-type"] = { "application/json" } }
  for place, server in ipairs(servers) do
    core.register_task(function()
      local given = core.httpclient()[method](core.httpclient(), {
        url = "http://" .. server.address .. path, body = body, headers = headers, timeout = timeout,
      })
      answers[place] = { name = server.name, status = given and given.status or 502, body = given and given.body or "" }
      waiting = waiting - 1
    end)
  end
  while waiting > 0 do core.msleep(1) end
  return answers
end

-- The objects of a JSON list's text, as texts.
local function objects(list)
  local found, depth, quoted, first, place = {}, 0, false, nil, 1
  while place <= #list do
    local letter = list:sub(place, place)
    if quoted then
      if letter == "\\" then place = place + 1 elseif letter == '"' then quoted = false end
    elseif letter == '"' then
      quoted = true
    elseif letter == "{" then
      if depth == 0 then first = place end
      depth = depth + 1
    elseif letter == "}" then
      depth = depth - 1
      if depth == 0 then found[#found + 1] = list:sub(first, place) end
    end
    place = place + 1
  end
  return found
end

-- One list of what every server answers to this request, each different object once.
local function united(applet, shape, opening, closing)
  local servers = serving("http-all")
  if #servers == 0 then return fail(applet, 503, "no server is ready") end
  local method = applet.method == "POST" and "post" or "get"
  local body = method == "post" and applet:receive() or nil
  local seen, all = {}, {}
  for _, given in ipairs(ask(servers, method, applet.path, body, ASK_TIMEOUT)) do
    local list = given.body:match(shape)
    if given.status ~= 200 or not list then
      return answer(applet, given.status == 200 and 502 or given.status, "application/json", given.body)
    end
    for _, object in ipairs(objects(list)) do
      if not seen[object] then
        seen[object] = true
        all[#all + 1] = object
      end
    end
  end
  answer(applet, 200, "application/json", opening .. table.concat(all, ",") .. closing)
end

core.register_service("index", "http", function(applet)
  united(applet, "^%s*%[(.*)%]%s*$", "[", "]")
end)

core.register_service("statistics", "http", function(applet)
  united(applet, '^%s*{%s*"model_stats"%s*:%s*%[(.*)%]%s*}%s*$', '{"model_stats":[', "]}")
end)

-- A change of models or settings is made on every server that it is about; the first failure is the answer.
core.register_service("control", "http", function(applet)
  local servers = serving(applet:get_var("txn.backend") or "http-all")
  local method = applet.method == "POST" and "post" or "get"
  local body = applet:receive()
  if #servers == 0 then return fail(applet, 503, "no server is ready") end
  local answers = ask(servers, method, applet.path, body, CONTROL_TIMEOUT)
  local said = answers[1]
  for _, given in ipairs(answers) do
    if given.status ~= 200 then said = given break end
  end
  answer(applet, said.status, "application/json", said.body)
end)

-- The metrics of all servers, and HAProxy's own, as one page: every family once, every sample with its server's name.
core.register_service("metrics", "http", function(applet)
  local order, families = {}, {}
  local function family(name)
    if not families[name] then
      families[name] = { about = {}, samples = {} }
      order[#order + 1] = name
    end
    return families[name]
  end
  for _, given in ipairs(ask(serving("metrics"), "get", "/metrics", nil, ASK_TIMEOUT)) do
    if given.status == 200 then
      local label = 'server="' .. given.name .. '"'
      local current
      for line in given.body:gmatch("[^\r\n]+") do
        local kind, name = line:match("^# (%u+) (%S+)")
        if kind == "HELP" or kind == "TYPE" then
          current = family(name)
          current.about[kind] = line
        elseif line:sub(1, 1) ~= "#" then
          local metric, labels, rest = line:match("^([%w_:]+){(.*)}(.*)$")
          if not metric then metric, rest = line:match("^([%w_:]+)(.*)$") end
          if metric then
            local samples = (current or family(metric)).samples
            local others = labels and labels ~= "" and "," .. labels or ""
            samples[#samples + 1] = metric .. "{" .. label .. others .. "}" .. rest
          end
        end
      end
    end
  end
  local lines = {}
  for _, name in ipairs(order) do
    for _, kind in ipairs({ "HELP", "TYPE" }) do lines[#lines + 1] = families[name].about[kind] end
    for _, sample in ipairs(families[name].samples) do lines[#lines + 1] = sample end
  end
  local own = core.httpclient():get({
    url = "http://gateway/metrics?scope=frontend&scope=server", dst = "unix@" .. exporter,
    timeout = ASK_TIMEOUT,
  })
  local page = table.concat(lines, "\n") .. (#lines > 0 and "\n" or "") .. (own and own.status == 200 and own.body or "")
  answer(applet, 200, "text/plain; version=0.0.4; charset=utf-8", page)
end)
