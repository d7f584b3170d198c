#include "core/session_samples.h"

#include <gmock/gmock.h>

#include <cmath>
#include <functional>

namespace espalier
{

namespace
{

using test::Folder;
using test::readBytes;
using test::sampleProfile;
using test::writeBytes;

TEST(ProfileFile, RoundTripIsExact)
{
    const Folder folder;
    const ProfileData data = sampleProfile();
    ASSERT_TRUE(writeProfile(folder / "a.h5", data).ok());
    const auto back = readProfile(folder / "a.h5");
    ASSERT_TRUE(back.ok()) << back.error().describe();
    EXPECT_EQ(back->layers, data.layers);
    EXPECT_EQ(back->ranges, data.ranges);
    EXPECT_EQ(back->windowIds, data.windowIds);
    EXPECT_EQ(back->fingerprint, data.fingerprint);
    EXPECT_EQ(back->collected, data.collected);
    ASSERT_TRUE(writeProfile(folder / "b.h5", *back).ok());
    EXPECT_EQ(readBytes(folder / "a.h5"), readBytes(folder / "b.h5"));
    EXPECT_EQ(*profileSha256(folder / "a.h5"), *profileSha256(folder / "b.h5"));
    EXPECT_EQ(profileSha256(folder / "a.h5")->size(), 64u);
}

// Energies of channels add up over shards, of their peaks the largest stays; and only a file that has them is of the newest format.
TEST(ProfileFile, ChannelsAreKeptAndMerged)
{
    const Folder folder;
    std::vector<ProfileData> shards = {sampleProfile(0, 4), sampleProfile(4, 2)};
    for (std::size_t shard = 0; shard < shards.size(); ++shard) {
        for (LayerProfile& layer : shards[shard].layers) {
            if (layer.experts == 0) continue;
            layer.channels = ChannelSums::zeros(layer.experts, 3);
            for (std::size_t i = 0; i < layer.channels.energy.size(); ++i) {
                layer.channels.energy[i] = static_cast<double>(i) + 0.5;
                layer.channels.peak[i] = i % 2 == shard ? 0.5 : 0.25;
            }
        }
        shards[shard].collected.push_back("channels");
    }
    ASSERT_TRUE(writeProfile(folder / "a.h5", shards[0]).ok());
    EXPECT_EQ(readBytes(folder / "a.h5").substr(0, std::string("espalier-profile 1.6").size()), "espalier-profile 1.6");
    EXPECT_EQ(readProfile(folder / "a.h5")->layers, shards[0].layers);

    const auto sum = mergeProfiles(shards);
    ASSERT_TRUE(sum.ok()) << sum.error().describe();
    const ChannelSums& channels = sum->layers[1].channels;
    for (std::size_t i = 0; i < channels.energy.size(); ++i) {
        EXPECT_EQ(channels.energy[i], 2 * static_cast<double>(i) + 1);
        EXPECT_EQ(channels.peak[i], 0.5);
    }
}

// What an older version can say is written as it wrote it, and what it cannot is counted as newer.
TEST(ProfileFile, TheFormatIsTheOldestThatHoldsTheContent)
{
    const Folder folder;
    const auto versionOf = [&](const ProfileData& data) {
        EXPECT_TRUE(writeProfile(folder / "a.h5", data).ok());
        return readBytes(folder / "a.h5").substr(0, std::string("espalier-profile 1.5").size());
    };
    ProfileData data = sampleProfile();
    EXPECT_EQ(versionOf(data), "espalier-profile 1.5");
    for (LayerProfile& layer : data.layers)
        layer.outputs = {};
    EXPECT_EQ(versionOf(data), "espalier-profile 1.5") << "the similarity alone";
    for (LayerProfile& layer : data.layers)
        layer.similarity = {};
    EXPECT_EQ(versionOf(data), "espalier-profile 1.4");
    EXPECT_EQ(readProfile(folder / "a.h5")->layers, data.layers);
}

TEST(ProfileFile, OneWithoutTokenIdsOpens)
{
    const Folder folder;
    ProfileData old = sampleProfile();
    old.windowIds = {};
    ASSERT_TRUE(writeProfile(folder / "a.h5", old).ok());
    const auto back = readProfile(folder / "a.h5");
    ASSERT_TRUE(back.ok()) << back.error().describe();
    EXPECT_TRUE(back->windowIds.empty());
    EXPECT_EQ(back->layers, old.layers);
}

TEST(ProfileFile, DamageGivesACode)
{
    const Folder folder;
    ASSERT_TRUE(writeProfile(folder / "a.h5", sampleProfile()).ok());
    const std::string bytes = readBytes(folder / "a.h5");
    for (std::size_t at = 0; at < bytes.size(); at += 61) {
        std::string damaged = bytes;
        damaged[at] = static_cast<char>(damaged[at] ^ 4);
        writeBytes(folder / "bad.h5", damaged);
        const auto flipped = readProfile(folder / "bad.h5");
        ASSERT_FALSE(flipped.ok()) << at;
        EXPECT_EQ(flipped.error().code.substr(0, 8), "profile.");
        writeBytes(folder / "bad.h5", bytes.substr(0, at));
        EXPECT_FALSE(readProfile(folder / "bad.h5").ok()) << at;
    }
    EXPECT_EQ(readProfile(folder / "none.h5").error().code, "profile.missing");
}

NllProbeSet sampleProbes(const ProfileData& data)
{
    NllProbeSet set;
    set.windows = {0, data.windows - 1};
    set.scored = {15, 15};
    set.factors = "whitened-svd";
    set.probes.push_back({.layers = {{.layer = 1, .kept = {0, 2, 3}, .ranks = {}}}, .change = {0.1, 1.0 / 3.0}});
    set.probes.push_back(
        {.layers = {{.layer = 2, .kept = {0, 1, 2}, .ranks = {{3, 3, 3}, {0, 0, 0}, {2, 1, 2}}}}, .change = {-1e-17, 2e300}});
    return set;
}

TEST(ProfileFile, ProbesComeBackAndOnesThatDoNotFitAreRefused)
{
    const Folder scratch;
    ProfileData data = sampleProfile();
    data.probes = {sampleProbes(data)};
    ASSERT_TRUE(writeProfile(scratch / "p.h5", data).ok());
    const auto read = readProfile(scratch / "p.h5");
    ASSERT_TRUE(read.ok()) << read.error().describe();
    EXPECT_EQ(read->probes, data.probes);
    const std::vector<std::function<void(NllProbeSet&)>> spoils = {
        [](NllProbeSet& set) { set.windows.back() = 1000; },
        [](NllProbeSet& set) {
            set.windows = {1, 0};
        },
        [](NllProbeSet& set) { set.scored[0] = 0; },
        [](NllProbeSet& set) { set.probes[0].change.pop_back(); },
        [](NllProbeSet& set) { set.probes[0].layers.clear(); },
        [](NllProbeSet& set) { set.probes[0].layers[0].layer = 99; },
        [](NllProbeSet& set) {
            set.probes[0].layers[0].kept = {2, 1};
        },
        [](NllProbeSet& set) {
            set.probes[0].layers[0].kept = {0, 4096};
        },
        [](NllProbeSet& set) { set.probes[1].layers[0].ranks.pop_back(); },
        [](NllProbeSet& set) { set.probes[1].layers[0].ranks[0][1] = -1; },
    };
    for (const auto& spoil : spoils) {
        ProfileData other = data;
        spoil(other.probes.front());
        ASSERT_TRUE(writeProfile(scratch / "q.h5", other).ok());
        const auto refused = readProfile(scratch / "q.h5");
        ASSERT_FALSE(refused.ok());
        EXPECT_EQ(refused.error().code, "profile.invalid");
    }
}

TEST(ProfileMerge, ProbesOfAllShardsOrOfNone)
{
    ProfileData a = sampleProfile(0, 4), b = sampleProfile(4, 2);
    a.probes = {sampleProbes(a)};
    EXPECT_TRUE(mergeProfiles({a, b})->probes.empty());
    b.probes = {sampleProbes(b)};
    for (const auto& sum : {mergeProfiles({a, b}), mergeProfiles({b, a})}) {
        ASSERT_TRUE(sum.ok());
        ASSERT_EQ(sum->probes.size(), 2u);
        EXPECT_EQ(sum->probes[0], a.probes[0]);
        EXPECT_EQ(sum->probes[1].windows, (std::vector<std::int32_t>{4, 5}));
        EXPECT_EQ(sum->probes[1].probes, b.probes[0].probes);
    }
}

TEST(ProfileMerge, ShardsAddUpInAnyOrder)
{
    const ProfileData a = sampleProfile(0, 4);
    const ProfileData b = sampleProfile(4, 2);
    const auto sum = mergeProfiles({b, a});
    ASSERT_TRUE(sum.ok()) << sum.error().describe();
    EXPECT_EQ(sum->tokens, 24);
    EXPECT_EQ(sum->windows, 6);
    EXPECT_EQ(sum->textSha256, "t1");
    ASSERT_EQ(sum->ranges.size(), 2u);
    EXPECT_EQ(sum->ranges[0].firstWindow, 0);
    const LayerProfile& layer = sum->layers[1];
    EXPECT_EQ(layer.count[0], 3 + 7);
    EXPECT_DOUBLE_EQ(layer.norm[2], a.layers[1].norm[2] + b.layers[1].norm[2]);
    EXPECT_EQ(layer.maxActivation[1], std::max(a.layers[1].maxActivation[1], b.layers[1].maxActivation[1]));
    const auto total = [](const ProfileData& part) { return part.layers[1].outputs.of(OutputWeight::Routing).mass[2]; };
    EXPECT_DOUBLE_EQ(total(*sum), total(a) + total(b));
    EXPECT_EQ(sum->layers[0].similarity.tokens, 24) << "of the dense layer";
    EXPECT_DOUBLE_EQ(sum->layers[0].similarity.mean(), 0.75);
    EXPECT_EQ(layer.gram.tokenCount(), 12u);
    EXPECT_EQ(layer.gram.tokens[8], 16);
    EXPECT_EQ(layer.gradients.window, (std::vector<std::int32_t>{0, 0, 0, 0, 1, 1, 1, 1, 4, 4, 4, 4}));
    EXPECT_EQ(layer.gradients.products.size(), 36u);
    EXPECT_EQ(layer.gradients.products[24], b.layers[1].gradients.products[0]);
    EXPECT_EQ(layer.gradients.drawnProducts[35], b.layers[1].gradients.drawnProducts[11]);
    EXPECT_DOUBLE_EQ(layer.gradients.squared, 1.5);
    EXPECT_EQ(layer.gradients.tokens, 12);
    EXPECT_TRUE(std::is_sorted(layer.gram.tokens.begin(), layer.gram.tokens.end()));
}

TEST(ProfileMerge, TokenIdsOfAllShardsOrOfNone)
{
    const ProfileData whole = sampleProfile(0, 6);
    ProfileData a = sampleProfile(0, 2);
    const ProfileData b = sampleProfile(2, 3);
    const ProfileData c = sampleProfile(5, 1);
    EXPECT_EQ(mergeProfiles({c, a, b})->windowIds, whole.windowIds);
    a.windowIds = {};  // taken by an older engine
    EXPECT_TRUE(mergeProfiles({c, a, b})->windowIds.empty());
}

TEST(ProfileMerge, RefusesWhatDoesNotBelongTogether)
{
    const ProfileData a = sampleProfile(0, 4);
    const auto code = [&](auto change) {
        ProfileData b = sampleProfile(4, 2);
        change(b);
        return mergeProfiles({a, b}).error().code;
    };
    EXPECT_EQ(code([](ProfileData& b) { b.ranges[0].firstWindow = 3; }), "profile.overlap");
    EXPECT_EQ(code([](ProfileData& b) {
                  b.ranges[0].textSha256 = b.textSha256 = "t2";
                  b.ranges[0].sha256 = "r0";
              }),
              "profile.overlap");
    EXPECT_EQ(code([](ProfileData& b) { b.fingerprint = "f2"; }), "profile.other_model");
    EXPECT_EQ(code([](ProfileData& b) { b.numericMode = "bf16"; }), "profile.other_mode");
    EXPECT_EQ(code([](ProfileData& b) { b.windowLength = 8; }), "profile.other_window_length");
    EXPECT_EQ(code([](ProfileData& b) { b.collected = {"counts"}; }), "profile.other_statistics");
    EXPECT_EQ(code([](ProfileData& b) {
                  for (LayerProfile& layer : b.layers)
                      layer.gradients = {};
              }),
              "profile.other_statistics");
    EXPECT_EQ(mergeProfiles({}).error().code, "profile.nothing_to_merge");
}

}  // namespace

}  // namespace espalier
