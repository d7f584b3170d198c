#include "profile/pass_state.h"

#include "session/profile_file.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <cstring>

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
    std::error_code failure;
    std::filesystem::remove_all(m_folder, failure);
    return {};
}

Status PassState::prepare()
{
    if (!active()) return {};
    std::error_code failure;
    std::filesystem::create_directories(m_folder, failure);
    if (failure)
        return resourceError("output.unwritable", m_folder.string(),
                             fmt::format("{} cannot be created: {}.", m_folder.string(), failure.message()),
                             "Check the folder and its permissions.");
    return {};
}

Status PassState::commit(const LayerProfile& profile, const std::vector<at::Tensor>& hidden, bool last)
{
    if (!active()) return {};
    if (profile.experts > 0)
        ESPALIER_CHECK_OK(writeProfileState(layerFile(profile.layer), {.key = m_key, .profile = profile, .hiddenType = "", .hidden = {}}));
    ProfileState state{.key = m_key, .profile = {}, .hiddenType = "", .hidden = {}};
    state.profile.layer = profile.layer;
    if (!last) {
        state.hiddenType = hidden.front().scalar_type() == at::kBFloat16 ? "BF16" : "F32";
        for (const at::Tensor& part : hidden) {
            const at::Tensor rows = part.contiguous();
            const auto* bytes = static_cast<const std::byte*>(rows.const_data_ptr());
            state.hidden.insert(state.hidden.end(), bytes, bytes + rows.nbytes());
        }
    }
    return writeProfileState(hiddenFile(), state);
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

Result<std::optional<std::vector<LayerProfile>>> PassState::load(const ModelShape& shape, const std::vector<WindowBatch>& batches,
                                                                 at::ScalarType type, std::vector<at::Tensor>& hidden)
{
    std::optional<std::vector<LayerProfile>> none;
    if (!active() || !std::filesystem::exists(hiddenFile())) return none;
    ESPALIER_TRY(const ProfileState state, readProfileState(hiddenFile()));
    if (state.key != m_key) return otherRun();
    std::vector<LayerProfile> layers;
    const int done = state.profile.layer;
    if (done < 0 || done >= static_cast<int>(shape.layers.size())) return otherRun();
    for (int l = 0; l <= done; ++l) {
        LayerProfile profile;
        profile.layer = l;
        if (shape.layers[static_cast<std::size_t>(l)].moe) {
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
    if (done + 1 == static_cast<int>(shape.layers.size())) return std::optional(std::move(layers));
    std::size_t offset = 0;
    for (const WindowBatch& batch : batches) {
        at::Tensor part = at::empty({static_cast<std::int64_t>(batch.count), batch.length, shape.hiddenSize}, type);
        if (offset + part.nbytes() > state.hidden.size()) return otherRun();
        std::memcpy(part.mutable_data_ptr(), state.hidden.data() + offset, part.nbytes());
        offset += part.nbytes();
        hidden.push_back(std::move(part));
    }
    if (offset != state.hidden.size()) return otherRun();
    return std::optional(std::move(layers));
}

Error PassState::otherRun() const
{
    Error error = badInput("profile.other_run", m_folder.string(),
                           fmt::format("{} belongs to a pass over other windows, another model or other options.", m_folder.string()),
                           "Start without --resume, or give the same options as before.");
    error.kept = "The interrupted pass is unchanged.";
    return error;
}

std::filesystem::path PassState::layerFile(int layer) const { return m_folder / fmt::format("layer-{:04}.h5", layer); }

std::filesystem::path PassState::partsFile(int layer, int number) const
{
    return m_folder / fmt::format("parts-{:04}-{:03}.h5", layer, number);
}

std::filesystem::path PassState::hiddenFile() const { return m_folder / "hidden.h5"; }

Status refuseExisting(const std::filesystem::path& out, bool force)
{
    std::error_code failure;
    if (out.empty() || force || !std::filesystem::exists(out, failure)) return {};
    Error error = usageError(fmt::format("{} exists already.", out.string()), "Use --force to replace it, or another name.");
    error.code = "output.exists";
    error.subject = out.string();
    error.kept = "It was not touched.";
    return error;
}

}  // namespace espalier
