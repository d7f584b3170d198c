// What the window and the engine do with core/session, as a program of its own: it starts in milliseconds, so that every call can be made
// to fail. `session_tool WHAT FOLDER [--force]`; a failure is printed as the engine prints one.
#include "core/session_samples.h"
#include "session/profile_parts.h"

#include <cstdio>
#include <string>

namespace espalier
{

namespace
{

using std::filesystem::path;
using test::sampleProfile;
using test::sampleSession;

std::vector<ExpertParts> sampleParts(int layer)
{
    std::vector<ExpertParts> parts;
    for (int expert = 0; expert < (layer == 1 ? 6 : 4); ++expert) {
        ExpertParts part;
        part.expert = expert;
        for (auto* bases : {&part.own, &part.thin})
            for (FactorBasis& basis : *bases)
                basis = {.rows = 60, .columns = 40, .values = std::vector<float>(2400, static_cast<float>(expert + layer) / 7)};
        part.inputMoment.assign(1830, 0.5 + layer);
        part.hiddenMoment.assign(78, 0.25 + expert);
        parts.push_back(std::move(part));
    }
    return parts;
}

// As the window: under the lock.
Status session(const path& folder)
{
    ESPALIER_TRY(const SessionLock lock, SessionLock::acquire(folder / "a.espalier"));
    ESPALIER_CHECK_OK(writeSession(folder / "a.espalier", sampleSession()));
    ESPALIER_TRY(const SessionData back, readSession(folder / "a.espalier"));
    return back.view == sampleSession().view ? Status() : internalError("Another view was read.");
}

// What an earlier process left is taken first, as when the window starts.
Status recovery(const path& folder)
{
    for (const RecoveryEntry& entry : findRecovery(folder)) {
        ESPALIER_TRY(const RecoveredSession found, takeRecovery(entry));
        discardRecovery(found.entry);
    }
    ESPALIER_TRY(RecoveryFile file, RecoveryFile::create(folder));
    SessionData data = sampleSession();
    for (int edits = 1; edits <= 2; ++edits)
        ESPALIER_CHECK_OK(file.write(data, {.session = "/x/a.espalier", .savedAt = 5, .writtenAt = 6 + edits, .edits = edits}));
    file.finish();
    return writeSession(folder / "a.espalier", data);
}

// As the engine: layer by layer, then all of it.
Status profile(const path& folder)
{
    std::error_code failure;
    const path state = folder / "p.h5.state";
    std::filesystem::create_directories(state, failure);
    if (failure)
        return resourceError(failure.value() == ENOSPC ? "output.disk_full" : "output.unwritable", state, failure.message(),
                             "Check the disk.");
    const ProfileData data = sampleProfile();
    std::vector<path> parts;
    for (const int layer : {1, 2}) {
        ESPALIER_CHECK_OK(writeProfileState(state / (std::string("layer-") + std::to_string(layer) + ".h5"),
                                            {.key = "k", .profile = data.layers[static_cast<std::size_t>(layer)]}));
        parts.push_back(state / (std::string("parts-") + std::to_string(layer) + ".h5"));
        ESPALIER_CHECK_OK(writeLayerParts(parts.back(), "k", layer, sampleParts(layer)));
    }
    ESPALIER_CHECK_OK(writeProfile(folder / "p.h5", data, parts));
    std::filesystem::remove_all(state, failure);
    return {};
}

// Everything that `profile` and `session` made is read, held open until the program ends, too.
Status reading(const path& folder)
{
    ESPALIER_TRY(const ProfileData data, readProfile(folder / "p.h5"));
    ESPALIER_TRY(static const auto parts, ProfileParts::open(folder / "p.h5"));
    for (const int layer : {1, 2}) {
        ESPALIER_TRY(const FactorBasis basis, parts->basis(layer, 1, 2, 3));
        ESPALIER_TRY(const std::vector<double> moment, parts->moment(layer, 1, true));
        if (basis.rows != 60 || moment.size() != 78) return internalError("Other parts were read.");
    }
    ESPALIER_TRY(const SessionData session, readSession(folder / "a.espalier"));
    return writeProfile(folder / "copy.h5", data);
}

Status work(const std::string& what, const path& folder)
{
    if (what == "session") return session(folder);
    if (what == "recovery") return recovery(folder);
    if (what == "profile") return profile(folder);
    if (what == "reading") return reading(folder);
    return usageError("Unknown: " + what);
}

}  // namespace

}  // namespace espalier

int main(int argc, char** argv)
{
    if (argc < 3) return 2;
    const espalier::Status status = espalier::work(argv[1], argv[2]);
    if (status.ok()) return 0;
    const espalier::Error& error = status.error();
    const espalier::Json answer = {
        {"error", {{"code", error.code}, {"message", error.message}, {"kept", error.kept}, {"action", error.action}}}};
    std::fputs((answer.dump() + "\n").c_str(), stdout);
    return error.exitCode();
}
