// What a profile pass keeps on the disk while it runs, so that a killed one goes on.
#pragma once

#include "base/error.h"
#include "session/profile_parts.h"
#include "statistics/profile_data.h"

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

namespace espalier
{

// The folder `out` + ".state": one file per finished layer, the hidden states (profile/hidden_states.h), and a small file that is written
// last and so decides how far the pass has come. Without an output nothing is kept.
class PassState
{
public:
    // `key`: everything that the pass depends on. Touches nothing.
    PassState(const std::filesystem::path& out, std::string key);
    bool active() const { return !m_folder.empty(); }
    const std::filesystem::path& folder() const { return m_folder; }
    const std::string& key() const { return m_key; }

    Status clear();
    Status prepare();  // error: output.unwritable
    // What the next layer needs is on the disk by now.
    Status commit(const LayerProfile& profile);

    // Bulky parts of a layer, before it is committed.
    Status addParts(int layer, int number, const std::vector<ExpertParts>& experts);
    // What an interrupted run left of a layer that was not committed.
    void dropParts(int layer);
    std::vector<std::filesystem::path> parts(int layer) const;

    // Of a pass that ends after its probes were taken: they are not taken twice.
    Status keepProbes(const std::vector<NllProbeSet>& probes);
    std::optional<std::vector<NllProbeSet>> probes() const;

    // Layers done, in order; nothing when there is no state. Error: profile.other_run.
    Result<std::optional<std::vector<LayerProfile>>> load(const ModelShape& shape);

private:
    Error otherRun() const;
    std::filesystem::path layerFile(int layer) const;
    std::filesystem::path partsFile(int layer, int number) const;
    std::filesystem::path progressFile() const;
    std::filesystem::path probesFile() const;

    std::filesystem::path m_folder;
    std::string m_key;
};

// Error: output.exists (Usage), unless there is no output or it may be replaced.
Status refuseExisting(const std::filesystem::path& out, bool force);

}  // namespace espalier
