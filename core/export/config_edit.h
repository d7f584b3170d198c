// config.json of an export (keys: README.md here): the source's keys in the source's order, with as few edits as the flavour needs.
#pragma once

#include "base/error.h"
#include "checkpoint/checkpoint.h"
#include "plan/compression_plan.h"
#include "plan/flavors.h"

#include <string>
#include <string_view>

namespace espalier
{

// `source`: text of the config.json of `checkpoint`. Where the checkpoint was read otherwise than that file says, what was read is written
// (checkpoint/departures.h). Returns the text to write; the very same bytes when nothing needs to change.
Result<std::string> editConfig(std::string_view source, const Checkpoint& checkpoint, const CompressionPlan& plan, ExportFlavor flavor);

}  // namespace espalier
