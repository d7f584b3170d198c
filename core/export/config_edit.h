// config.json of an export (formats.md 9.2, 9.3): the source's keys in the source's order, with as few edits as the flavour needs.
#pragma once

#include "base/error.h"
#include "export/flavors.h"
#include "plan/compression_plan.h"

#include <string>
#include <string_view>

namespace espalier
{

// `source`: text of the source's config.json (already validated). Returns the text to write; the very same bytes when nothing needs
// to change.
Result<std::string> editConfig(std::string_view source, const ModelShape& shape, const CompressionPlan& plan, ExportFlavor flavor);

}  // namespace espalier
