// What a profile pass keeps on the disk while it runs, so that a killed one goes on.
#pragma once

#include "base/error.h"
#include "profile/window_batches.h"
#include "session/profile_data.h"
#include "session/profile_parts.h"

#include <ATen/core/Tensor.h>

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

namespace espalier
{

// The folder `out` + ".state": one file per finished layer, and the hidden states behind the last of them, which are written last and so
// decide how far the pass has come. Without an output nothing is kept.
class PassState
{
public:
    // `key`: everything that the pass depends on. Touches nothing.
    PassState(const std::filesystem::path& out, std::string key);
    bool active() const { return !m_folder.empty(); }

    Status clear();
    Status prepare();  // error: output.unwritable
    Status commit(const LayerProfile& profile, const std::vector<at::Tensor>& hidden, bool last);

    // Bulky parts of a layer, before it is committed.
    Status addParts(int layer, int number, const std::vector<ExpertParts>& experts);
    // What an interrupted run left of a layer that was not committed.
    void dropParts(int layer);
    std::vector<std::filesystem::path> parts(int layer) const;

    // Layers done, in order, and the hidden states; nothing when there is no state. Error: profile.other_run.
    Result<std::optional<std::vector<LayerProfile>>> load(const ModelShape& shape, const std::vector<WindowBatch>& batches,
                                                          at::ScalarType type, std::vector<at::Tensor>& hidden);

private:
    Error otherRun() const;
    std::filesystem::path layerFile(int layer) const;
    std::filesystem::path partsFile(int layer, int number) const;
    std::filesystem::path hiddenFile() const;

    std::filesystem::path m_folder;
    std::string m_key;
};

// Error: output.exists (Usage), unless there is no output or it may be replaced.
Status refuseExisting(const std::filesystem::path& out, bool force);

}  // namespace espalier
