#include "profile/pass_state.h"

#include "base/atomic_file.h"
#include "session/profile_file.h"

#include <fmt/format.h>

namespace espalier
{

PassState::PassState(const std::filesystem::path& out, std::string key) : m_key(std::move(key))
{
    if (out.empty()) return;
    m_folder = out;
    m_folder += ".state";
}

Status PassState::clear()
{
    if (!active()) return {};
    // First what decides how far the pass has come: a kill in the middle of this leaves nothing that looks like a pass to go on with.
    std::error_code failure;
    std::filesystem::remove(progressFile(), failure);
    std::filesystem::remove_all(m_folder, failure);
    return {};
}

Status PassState::prepare()
{
    if (!active()) return {};
    return makeFolder(m_folder);
}

Status PassState::commit(const LayerProfile& profile)
{
    if (!active()) return {};
    if (profile.experts > 0 || !profile.similarity.empty())
        ESPALIER_CHECK_OK(writeProfileState(layerFile(profile.layer), {.key = m_key, .profile = profile}));
    ProfileState progress{.key = m_key, .profile = {}};
    progress.profile.layer = profile.layer;
    return writeProfileState(progressFile(), progress);
}

Status PassState::addParts(int layer, int number, const std::vector<ExpertParts>& experts)
{
    if (experts.empty() || !active()) return {};
    return writeLayerParts(partsFile(layer, number), m_key, layer, experts);
}

void PassState::dropParts(int layer)
{
    std::error_code ignored;
    for (const std::filesystem::path& part : parts(layer))
        std::filesystem::remove(part, ignored);
}

std::vector<std::filesystem::path> PassState::parts(int layer) const
{
    std::vector<std::filesystem::path> files;
    std::error_code ignored;
    for (int number = 0; active() && std::filesystem::exists(partsFile(layer, number), ignored); ++number)
        files.push_back(partsFile(layer, number));
    return files;
}

Status PassState::keepProbes(const std::vector<NllProbeSet>& probes)
{
    if (!active()) return {};
    ProfileState state{.key = m_key, .profile = {}, .probes = probes};
    return writeProfileState(probesFile(), state);
}

std::optional<std::vector<NllProbeSet>> PassState::probes() const
{
    std::error_code ignored;
    if (!active() || !std::filesystem::exists(probesFile(), ignored)) return {};
    Result<ProfileState> state = readProfileState(probesFile());
    if (!state.ok() || state->key != m_key) return {};
    return std::move(state->probes);
}

Result<std::optional<std::vector<LayerProfile>>> PassState::load(const ModelShape& shape)
{
    std::optional<std::vector<LayerProfile>> none;
    if (!active() || !std::filesystem::exists(progressFile())) return none;
    ESPALIER_TRY(const ProfileState state, readProfileState(progressFile()));
    if (state.key != m_key) return otherRun();
    std::vector<LayerProfile> layers;
    const int done = state.profile.layer;
    if (done < 0 || done >= static_cast<int>(shape.layers.size())) return otherRun();
    for (int l = 0; l <= done; ++l) {
        LayerProfile profile;
        profile.layer = l;
        std::error_code ignored;
        if (shape.layers[static_cast<std::size_t>(l)].moe || std::filesystem::exists(layerFile(l), ignored)) {
            for (const std::filesystem::path& part : parts(l)) {
                ESPALIER_TRY(const std::string key, readLayerPartsKey(part));
                if (key != m_key) return otherRun();
            }
            ESPALIER_TRY(ProfileState layer, readProfileState(layerFile(l)));
            if (layer.key != m_key || layer.profile.layer != l) return otherRun();
            profile = std::move(layer.profile);
        }
        layers.push_back(std::move(profile));
    }
    return std::optional(std::move(layers));
}

Error PassState::otherRun() const
{
    Error error =
        badInput("profile.other_run", m_folder.string(),
                 {"{folder} belongs to a pass over other windows, another model or other options.", {{"folder", m_folder.string()}}},
                 "Start without --resume, or give the same options as before.");
    error.kept = "The interrupted pass is unchanged.";
    return error;
}

std::filesystem::path PassState::layerFile(int layer) const { return m_folder / fmt::format("layer-{:04}.h5", layer); }

std::filesystem::path PassState::partsFile(int layer, int number) const
{
    return m_folder / fmt::format("parts-{:04}-{:03}.h5", layer, number);
}

std::filesystem::path PassState::progressFile() const { return m_folder / "progress.h5"; }
std::filesystem::path PassState::probesFile() const { return m_folder / "probes.h5"; }

Status refuseExisting(const std::filesystem::path& out, bool force)
{
    std::error_code failure;
    if (out.empty() || force || !std::filesystem::exists(out, failure)) return {};
    Error error = usageError({"{out} exists already.", {{"out", out.string()}}}, "Use --force to replace it, or another name.");
    error.code = "output.exists";
    error.subject = out.string();
    error.kept = "It was not touched.";
    return error;
}

}  // namespace espalier
