-- Auto-routing from Orthanc to medpipe: every stable series of images is sent to it, nothing that is a result.
--
-- Needs in orthanc.json: "LuaScripts": ["/etc/orthanc/autorouting.lua"], the modality that "Medpipe" names in
-- "DicomModalities", and optionally
--   "Medpipe": {"Destination": "medpipe",   the modality's name, not its AE title
--               "Modalities": ["OP", "CT"]}  only these; empty or absent: all images
-- Which series is processed, and by what, is decided by medpipe's own rules.

local ATTEMPTS = 50  -- per series, while medpipe does not take it

-- Never sent: what has no pixels to segment, and every result (ours would come back in a circle).
local NOT_IMAGES = {
  SEG = true, SR = true, KO = true, PR = true, RTSTRUCT = true, RTDOSE = true, RTPLAN = true, RTRECORD = true,
  DOC = true, REG = true, FID = true, AU = true, PLAN = true,
}

local jobs = {}     -- Orthanc job -> series
local waiting = {}  -- series -> attempts so far, to be sent again

local function settings()
  local configured = GetOrthancConfiguration()
  local own = configured and configured['Medpipe'] or {}
  local only = {}
  local restricted = false
  for _, modality in pairs(own['Modalities'] or {}) do
    only[modality] = true
    restricted = true
  end
  return own['Destination'] or 'medpipe', only, restricted
end

local function is_wanted(tags)
  local _, only, restricted = settings()
  local modality = tags['Modality'] or ''
  if NOT_IMAGES[modality] or tags['Manufacturer'] == 'medpipe' then
    return false
  end
  return not restricted or only[modality] == true
end

local function send(series, attempt)
  local destination = settings()
  -- SendToModality takes no series in Orthanc 1.10, and says nothing: the REST interface does.
  -- A "Permissive" job succeeds even when nobody answers. So only the last try is permissive: it delivers what can be
  -- delivered of a series with an instance that is refused each time.
  local permissive = attempt >= ATTEMPTS and 'true' or 'false'
  local body = '{"Resources":["' .. series .. '"],"Asynchronous":true,"Permissive":' .. permissive .. '}'
  local answered, answer = pcall(RestApiPost, '/modalities/' .. destination .. '/store', body)
  local job = answered and answer and ParseJson(answer)['ID'] or nil
  if job then
    jobs[job] = { series = series, attempt = attempt }
  else
    print('medpipe: series ' .. series .. ' could not be handed to the modality ' .. destination)
    waiting[series] = attempt
  end
end

local function send_waiting()
  local due = waiting
  waiting = {}
  for series, attempt in pairs(due) do
    send(series, attempt + 1)
  end
end

function OnStableSeries(series, tags, metadata)
  if is_wanted(tags) then
    send(series, 1)
  end
  send_waiting()
end

function OnJobSuccess(id)
  jobs[id] = nil
end

function OnJobFailure(id)
  local job = jobs[id]
  jobs[id] = nil
  if job and job.attempt < ATTEMPTS then
    print('medpipe: series ' .. job.series .. ' was not sent; it waits for another try')
    waiting[job.series] = job.attempt
  end
end

function OnHeartBeat()  -- since Orthanc 1.11; before, a series that waits goes with the next stable one
  send_waiting()
end
