// Every way in which a profile file can be unusable, and the code that says so.
#include "core/profile_fixture.h"
#include "session/profile_file.h"
#include "session/profile_parts.h"

#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <sstream>

using namespace espalier;
using namespace espalier::test;

namespace
{

class ProfileDamage : public testing::Test
{
protected:
    void SetUp() override
    {
        m_folder = std::filesystem::path(testing::TempDir()) /
                   ("profile-damage-" + std::string(testing::UnitTest::GetInstance()->current_test_info()->name()));
        std::filesystem::remove_all(m_folder);
        std::filesystem::create_directories(m_folder);
        m_file = m_folder / "a.h5";
    }
    void TearDown() override { std::filesystem::remove_all(m_folder); }

    static std::string bytesOf(const std::filesystem::path& path)
    {
        std::ifstream in(path, std::ios::binary);
        std::ostringstream out;
        out << in.rdbuf();
        return out.str();
    }
    static void put(const std::filesystem::path& path, const std::string& bytes) { std::ofstream(path, std::ios::binary) << bytes; }

    std::filesystem::path m_folder;
    std::filesystem::path m_file;
};

}  // namespace

TEST_F(ProfileDamage, IsFoundWhereverItIs)
{
    ASSERT_TRUE(writeProfile(m_file, madeProfile(2, 6, 2, 2, 0, 3)).ok());
    const std::string good = bytesOf(m_file);
    for (std::size_t at = 512; at < good.size(); at += 397) {
        std::string bad = good;
        bad[at] = static_cast<char>(bad[at] ^ 0x40);
        put(m_file, bad);
        const auto read = readProfile(m_file);
        ASSERT_FALSE(read.ok()) << at;
        EXPECT_EQ(read.error().code, "profile.damaged") << at;
    }
    // In the header every change is noticed too, under one code or another.
    for (std::size_t at = 0; at < 512; ++at) {
        std::string bad = good;
        bad[at] = static_cast<char>(bad[at] ^ 0x01);
        put(m_file, bad);
        const auto read = readProfile(m_file);
        ASSERT_FALSE(read.ok()) << at;
        EXPECT_EQ(read.error().code.substr(0, 8), "profile.") << at;
    }
}

TEST_F(ProfileDamage, EveryKindHasACode)
{
    EXPECT_EQ(readProfile(m_folder / "none.h5").error().code, "profile.missing");
    EXPECT_EQ(profileSha256(m_folder / "none.h5").error().code, "profile.missing");
    EXPECT_EQ(readProfile(m_folder).error().code, "profile.unreadable");
    put(m_file, std::string(4096, 'x'));
    EXPECT_EQ(readProfile(m_file).error().code, "profile.not_a_profile");
    put(m_file, "");
    EXPECT_EQ(readProfile(m_file).error().code, "profile.not_a_profile");

    ASSERT_TRUE(writeProfile(m_file, madeProfile(1, 6, 2, 1, 0, 4)).ok());
    const std::string good = bytesOf(m_file);
    put(m_file, good.substr(0, good.size() / 2));
    EXPECT_EQ(readProfile(m_file).error().code, "profile.truncated");
    EXPECT_EQ(profileSha256(m_file).error().code, "profile.truncated");

    // A state is not a profile.
    ASSERT_TRUE(writeProfileState(m_file, {.key = "k", .profile = {}}).ok());
    EXPECT_EQ(readProfile(m_file).error().code, "profile.not_a_profile");
}

TEST_F(ProfileDamage, ArraysThatDoNotFitAreRefused)
{
    const auto codeOf = [&](auto change) {
        ProfileData data = madeProfile(1, 6, 2, 1, 0, 5);
        change(data.layers[0]);
        const Status written = writeProfile(m_file, data);
        if (!written.ok()) return written.error().code;
        const auto read = readProfile(m_file);
        return read.ok() ? std::string("accepted") : read.error().code;
    };
    EXPECT_EQ(codeOf([](LayerProfile&) {}), "accepted");
    EXPECT_EQ(codeOf([](LayerProfile& layer) { layer.count.pop_back(); }), "profile.invalid");
    EXPECT_EQ(codeOf([](LayerProfile& layer) { layer.norm.push_back(0); }), "profile.invalid");
    EXPECT_EQ(codeOf([](LayerProfile& layer) { layer.gram.list[3] = 6; }), "profile.invalid");
    EXPECT_EQ(codeOf([](LayerProfile& layer) { layer.softMass[0] = std::nan(""); }), "profile.invalid");
    const auto withOutputs = [&](auto change) {
        return codeOf([&](LayerProfile& layer) {
            layer.outputs = OutputMoments::zeros(6, 4);
            change(layer.outputs.byWeight[1]);
        });
    };
    EXPECT_EQ(withOutputs([](OutputMoments::Weighted&) {}), "accepted");
    EXPECT_EQ(withOutputs([](OutputMoments::Weighted& moment) { moment.scatter.pop_back(); }), "profile.invalid");
    EXPECT_EQ(withOutputs([](OutputMoments::Weighted& moment) { moment.mass[2] = -1; }), "profile.invalid");
    EXPECT_EQ(withOutputs([](OutputMoments::Weighted& moment) { moment.scatter.push_back(0); }), "profile.invalid");
    EXPECT_EQ(withOutputs([](OutputMoments::Weighted& moment) { moment.sum[3] = std::nan(""); }), "profile.invalid");
    EXPECT_EQ(codeOf([](LayerProfile& layer) { layer.similarity = {.cosine = 8, .tokens = 8}; }), "accepted");
    EXPECT_EQ(codeOf([](LayerProfile& layer) { layer.similarity = {.cosine = 8.5, .tokens = 8}; }), "profile.invalid");
    EXPECT_EQ(codeOf([](LayerProfile& layer) { layer.similarity = {.cosine = std::nan(""), .tokens = 8}; }), "profile.invalid");
    const auto withChannels = [&](auto change) {
        return codeOf([&](LayerProfile& layer) {
            layer.channels = ChannelSums::zeros(6, 4);
            change(layer.channels);
        });
    };
    EXPECT_EQ(withChannels([](ChannelSums&) {}), "accepted");
    EXPECT_EQ(withChannels([](ChannelSums& channels) { channels.energy[5] = -1; }), "profile.invalid");
    EXPECT_EQ(withChannels([](ChannelSums& channels) { channels.peak[23] = std::nan(""); }), "profile.invalid");
    // Lists shorter than the selection would be read beyond their end.
    EXPECT_EQ(codeOf([](LayerProfile& layer) { layer.gram = madeLayer(RoutingRule::Softmax, 6, 2, 8, 1, 5).profile.gram; }),
              "profile.invalid");
}

TEST_F(ProfileDamage, CurvesThatDoNotFitAreRefused)
{
    const auto codeOf = [&](auto change) {
        ProfileData data = madeProfile(1, 6, 2, 1, 0, 5);
        LayerProfile& layer = data.layers[0];
        layer.spectrumLength = 4;
        layer.spectra.assign(6 * 3 * 4, 0.5f);
        for (auto* sums : {&layer.weightSquared, &layer.gateGain, &layer.upGain})
            sums->assign(6, 1.5);
        layer.gainTokens.assign(6, 3);
        change(data);
        const Status written = writeProfile(m_file, data);
        if (!written.ok()) return written.error().code;
        const auto read = readProfile(m_file);
        if (read.ok()) {
            EXPECT_EQ(read->layers, data.layers);
        }
        return read.ok() ? std::string("accepted") : read.error().code;
    };
    const auto layerCode = [&](auto change) { return codeOf([&](ProfileData& data) { change(data.layers[0]); }); };
    EXPECT_EQ(layerCode([](LayerProfile&) {}), "accepted");
    EXPECT_EQ(layerCode([](LayerProfile& layer) { layer.spectra[7] = std::nanf(""); }), "profile.invalid");
    EXPECT_EQ(layerCode([](LayerProfile& layer) { layer.spectra[7] = -1; }), "profile.invalid");
    EXPECT_EQ(layerCode([](LayerProfile& layer) { layer.gainTokens.pop_back(); }), "profile.invalid");
    EXPECT_EQ(layerCode([](LayerProfile& layer) { layer.weightSquared.clear(); }), "profile.invalid");
    EXPECT_EQ(codeOf([](ProfileData& data) { data.kept = {{0, 1, 2}}; }), "accepted");
    EXPECT_EQ(codeOf([](ProfileData& data) { data.kept = {{0, 6}}; }), "profile.invalid");
    EXPECT_EQ(codeOf([](ProfileData& data) { data.kept = {{0}, {1}}; }), "profile.invalid");
}

TEST_F(ProfileDamage, TokenIdsThatDoNotFitAreRefused)
{
    const auto codeOf = [&](auto change) {
        ProfileData data = madeProfile(1, 6, 2, 2, 0, 5);
        data.windowIds.lengths = {8, 8};
        data.windowIds.ids.assign(16, 7);
        change(data.windowIds);
        const Status written = writeProfile(m_file, data);
        if (!written.ok()) return written.error().code;
        const auto read = readProfile(m_file);
        return read.ok() ? std::string("accepted") : read.error().code;
    };
    EXPECT_EQ(codeOf([](WindowIds&) {}), "accepted");
    EXPECT_EQ(codeOf([](WindowIds& windows) { windows.ids.pop_back(); }), "profile.invalid");
    EXPECT_EQ(codeOf([](WindowIds& windows) { windows.ids[3] = -1; }), "profile.invalid");
    EXPECT_EQ(codeOf([](WindowIds& windows) { windows.ids[3] = 1000; }), "profile.invalid");
    EXPECT_EQ(codeOf([](WindowIds& windows) { windows.lengths = {16}; }), "profile.invalid");
    EXPECT_EQ(codeOf([](WindowIds& windows) { windows.lengths = {20, -4}; }), "profile.invalid");
}

TEST_F(ProfileDamage, PartsThatDoNotFitAreRefused)
{
    const ProfileData data = madeProfile(1, 6, 2, 1, 0, 5);
    const FactorBasis good = {.rows = 3, .columns = 2, .values = {1, 0, 0, 1, 0, 0}};
    const auto codeOf = [&](auto change) {
        ExpertParts parts;
        parts.expert = 2;
        parts.own = {good, good, good};
        parts.thin = {good, good, good};
        parts.inputMoment = {1, 2, 3};
        parts.hiddenMoment = {4};
        change(parts);
        const auto file = m_folder / "parts.h5";
        if (const Status status = writeLayerParts(file, "k", 0, {parts}); !status.ok()) return status.error().code;
        EXPECT_EQ(*readLayerPartsKey(file), "k");
        if (const Status status = writeProfile(m_file, data, {file}); !status.ok()) return status.error().code;
        const auto opened = ProfileParts::open(m_file);
        if (!opened.ok()) return opened.error().code;
        EXPECT_EQ(*(*opened)->moment(0, 2, false), (std::vector<double>{1, 2, 3}));
        const auto basis = (*opened)->basis(0, 2, 1, 2);
        return basis.ok() ? std::string("accepted") : basis.error().code;
    };
    EXPECT_EQ(codeOf([](ExpertParts&) {}), "accepted");
    const auto both = [](ExpertParts& parts, const FactorBasis& basis) { parts.own[1] = parts.thin[1] = basis; };
    EXPECT_EQ(codeOf([&](ExpertParts& parts) { both(parts, {3, 2, {1, 0, 0, std::nanf(""), 0, 0}}); }), "profile.invalid");
    EXPECT_EQ(codeOf([&](ExpertParts& parts) { both(parts, {2, 3, {1, 0, 0, 1, 0, 0}}); }), "profile.invalid");
    EXPECT_EQ(codeOf([&](ExpertParts& parts) { both(parts, {3, 1, {1, 0, 0}}); }), "plan.profile_without_factors");
    EXPECT_EQ(codeOf([&](ExpertParts& parts) { both(parts, {}); }), "plan.profile_without_factors");
    EXPECT_EQ(codeOf([&](ExpertParts& parts) { both(parts, {3, 2, {1, 0}}); }), "output.unwritable");

    const auto opened = ProfileParts::open(m_file);
    ASSERT_TRUE(opened.ok());
    for (const int layer : {-1, 0, 1, 99})
        for (const int expert : {-1, 0, 6, 99}) {
            EXPECT_EQ((*opened)->basis(layer, expert, 0, 1).error().code, "plan.profile_without_factors");
            EXPECT_FALSE((*opened)->moment(layer, expert, true).ok());
        }
    put(m_folder / "parts.h5", "rubbish");
    EXPECT_EQ(readLayerPartsKey(m_folder / "parts.h5").error().code, "profile.not_a_profile-parts");
    EXPECT_EQ(writeProfile(m_folder / "b.h5", data, {m_folder / "parts.h5"}).error().code, "profile.not_a_profile-parts");
    EXPECT_FALSE(std::filesystem::exists(m_folder / "b.h5"));
    EXPECT_EQ(ProfileParts::open(m_folder / "parts.h5").error().code, "profile.not_a_profile");
}

TEST_F(ProfileDamage, NothingIsLeftWhereWritingFails)
{
    const Status status = writeProfile(m_folder / "no such folder" / "a.h5", madeProfile(1, 6, 2, 1, 0, 6));
    ASSERT_FALSE(status.ok());
    EXPECT_EQ(status.error().code, "output.unwritable");
    EXPECT_TRUE(std::filesystem::is_empty(m_folder));
}
