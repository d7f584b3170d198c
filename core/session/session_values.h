// Values files of the plans of a session: found again where they were moved, and removed from the program's own folder once no plan names
// them. I/O thread.
#pragma once

#include "plan/values_search.h"
#include "session/session_file.h"

#include <filesystem>
#include <vector>

namespace espalier
{

// Those that plans of the history and snapshots name and that are not where they say, each once. Looks whether the files are there.
std::vector<ValuesInfo> lostValues(const SessionData& data);

// Puts the places of what is found into every plan. Hashes, texts and times stay.
void findLostValues(SessionData& data, ValuesSearch& search);

// Whether a plan of it reads the file with this id; one that cannot be read counts where its content has the id anywhere.
bool namesValues(const SessionData& data, const ValuesId& id);

// Notes `session` in the records of those of its values files that lie in `folder`.
void noteSessionValues(const std::filesystem::path& folder, const SessionData& data, const std::filesystem::path& session);

// Removes from `folder` what was last written a day ago or earlier and is named by no plan: not of `open`, of a recovery copy in
// `recoveryFolder`, or of a session or an exported plan that was seen to name it and still does, is gone, or cannot be read.
std::vector<std::filesystem::path> cleanValuesFolder(const std::filesystem::path& folder, const std::filesystem::path& recoveryFolder,
                                                     const SessionData& open);

}  // namespace espalier
