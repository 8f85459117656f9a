-- What HAProxy has no words for in its configuration: answers in Triton's form, and answers of several servers as one.
-- Loaded once in every thread.

-- The socket on which HAProxy's own metrics are to be had.
local exporter = os.getenv("TRITONKIT_EXPORTER")
local MAX_REQUEST_BYTES = tonumber(os.getenv("TRITONKIT_MAX_REQUEST_BYTES"))
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

-- The body of a request; nil when it is too long, which is then answered. Its length need not have been stated.
local function body_of(applet)
  local parts, length = {}, 0
  repeat
    local part = applet:receive(16384)
    parts[#parts + 1] = part
    length = length + (part and #part or 0)
  until part == nil or #part == 0 or length > MAX_REQUEST_BYTES
  if length <= MAX_REQUEST_BYTES then return table.concat(parts) end
  fail(applet, 413, "a request may have " .. MAX_REQUEST_BYTES .. " bytes at most")
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

-- What JSON text says from a place on, and the place behind it. Lists and objects are tables with their `keys` in order
-- and their `values` by key; whole numbers are numbers; all else stays the text that it is.
local function decoded(text, place)
  place = text:find("%S", place)
  local opening = text:sub(place, place)
  if opening == '"' then
    local last = place
    repeat
      last = text:find('["\\]', last + 1)
      local escape = text:sub(last, last) == "\\"
      if escape then last = last + 1 end
    until not escape
    return text:sub(place, last), last + 1
  elseif opening ~= "{" and opening ~= "[" then
    local word = text:match("^[^%s,%]}]+", place)
    return math.tointeger(tonumber(word)) or word, place + #word
  end
  local found = { opening = opening, closing = opening == "{" and "}" or "]", keys = {}, values = {} }
  place = text:find("%S", place + 1)
  while text:sub(place, place) ~= found.closing do
    local key = #found.keys + 1
    found.keys[key] = key
    if opening == "{" then
      found.keys[key], place = decoded(text, place)
      key, place = found.keys[key], text:find(":", place, true) + 1
    end
    found.values[key], place = decoded(text, place)
    place = text:find("[^%s,]", place)
  end
  return found, place + 1
end

local function encoded(value)
  if type(value) ~= "table" then return tostring(value) end
  local parts = {}
  for place, key in ipairs(value.keys) do
    parts[place] = (value.opening == "{" and key .. ":" or "") .. encoded(value.values[key])
  end
  return value.opening .. table.concat(parts, ",") .. value.closing
end

-- The keys by which statistics are told apart in a list.
local NAMES = { ['"name"'] = true, ['"version"'] = true, ['"batch_size"'] = true, ['"type"'] = true, ['"id"'] = true }

local function identity(object)
  local words = {}
  for _, key in ipairs(object.keys) do
    if NAMES[key] then words[#words + 1] = key .. encoded(object.values[key]) end
  end
  return table.concat(words, ",")
end

-- Adds the statistics of one server to those of others: counts and times are summed.
local function add(sum, more)
  local places = {}
  if sum.opening == "[" then
    for place, object in ipairs(sum.values) do places[identity(object)] = place end
  end
  for _, key in ipairs(more.keys) do
    local value = more.values[key]
    local own = key
    if sum.opening == "[" then own = places[identity(value)] or #sum.keys + 1 end
    local known = sum.values[own]
    if known == nil then
      sum.keys[#sum.keys + 1] = own
      sum.values[own] = value
    elseif type(known) == "table" then
      add(known, value)
    elseif key == '"last_inference"' then
      sum.values[own] = math.max(known, value)
    elseif type(known) == "number" and not NAMES[key] then
      sum.values[own] = known + value
    end
  end
end

-- What every server answers to this request, decoded. Those that do not know what it is about are left out; where no
-- server answers, or one fails, the client has its answer already, and nothing is returned.
local function gathered(applet)
  local servers = serving("http-all")
  if #servers == 0 then return fail(applet, 503, "no server is ready") end
  local method = applet.method == "POST" and "post" or "get"
  local body = body_of(applet)
  if not body then return end
  local found, refusal = {}, nil
  for _, given in ipairs(ask(servers, method, applet.path, body, ASK_TIMEOUT)) do
    if given.status == 200 then
      found[#found + 1] = decoded(given.body, 1)
    elseif not refusal or given.status >= 500 then
      refusal = given
    end
  end
  if refusal and (#found == 0 or refusal.status >= 500) then
    if refusal.body == "" then return fail(applet, 502, "server " .. refusal.name .. " did not answer") end
    return answer(applet, refusal.status, "application/json", refusal.body)
  end
  return found
end

-- One list of the models of every server, each different entry once.
core.register_service("index", "http", function(applet)
  local answers = gathered(applet)
  if not answers then return end
  local seen, all = {}, {}
  for _, list in ipairs(answers) do
    for _, entry in ipairs(list.values) do
      local text = encoded(entry)
      if not seen[text] then
        seen[text] = true
        all[#all + 1] = text
      end
    end
  end
  answer(applet, 200, "application/json", "[" .. table.concat(all, ",") .. "]")
end)

-- The statistics of a model, or of all, as if its servers were one.
core.register_service("statistics", "http", function(applet)
  local answers = gathered(applet)
  if not answers then return end
  local sum = answers[1]
  for place = 2, #answers do add(sum, answers[place]) end
  answer(applet, 200, "application/json", encoded(sum))
end)

-- A change of models or settings is made on every server that it is about; the first failure is the answer.
core.register_service("control", "http", function(applet)
  local servers = serving(applet:get_var("txn.backend") or "http-all")
  local method = applet.method == "POST" and "post" or "get"
  local body = body_of(applet)
  if not body then return end
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
