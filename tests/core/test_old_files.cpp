// Files that the last release wrote (tests/fixtures/release-0.1, of the model mixtral-tiny and of the sample session): they open, and say
// and compute what they did.
#include "core/compression_fixture.h"
#include "core/session_samples.h"
#include "evaluate/evaluator.h"
#include "export/plan_factors.h"
#include "export/verify.h"
#include "plan/cost_model.h"
#include "session/profile_file.h"
#include "session/profile_parts.h"
#include "session/session_file.h"

#include <gtest/gtest.h>

namespace espalier
{

namespace
{

namespace fs = std::filesystem;
using test::modelOf;
using test::openTiny;
using test::take;

const fs::path kOld = fs::path(ESPALIER_TEST_FIXTURES) / "release-0.1";

double meanLoss(MoeModel& model, const CompressionPlan& plan)
{
    Evaluator evaluator(model, take(windowsFromIds((kOld / "ids.json").string(), {.windowLength = 64}, 1 << 20)), 0);
    SilentJob job;
    return perplexity(take(evaluator.run(plan, std::vector<int>{0, 1, 2, 3}, {}, job))).nll;
}

struct OldPlan {
    const char* file;
    const char* hash;
    double nll;  // per token, of the four windows of ids.json, fp32, as the release printed it
};

constexpr OldPlan kPlans[] = {
    {"kept.json", "0e6222acda9f2bd2a77d63da452a6ff8dae558e21f09e34c2aa1264c82151bd0", 5.24315411181968},
    {"whitened.json", "4375742067344c26411a440e6902b769a974a1d5443fe581e71f1f5bd1a49ee9", 6.729400578447892},
    {"svd.json", "223417e1055c407aecbf2970d55abf9a69823644608517b7c8e2bd8ebb899c4a", 6.709037058960655},
};

TEST(OldFiles, PlansHaveTheirHashesAndTheirNumbers)
{
    auto model = modelOf(openTiny("mixtral-tiny"));
    model->setFactorSources({take(ProfileParts::open(kOld / "profile.h5"))});
    for (const OldPlan& old : kPlans) {
        SCOPED_TRACE(old.file);
        const Json file = take(readJsonFile(kOld / old.file, "plan"));
        const CompressionPlan plan = take(planFromJson(file, model->shape()));
        EXPECT_EQ(plan.hash(), old.hash);
        const Json again = toJson(plan);
        for (const auto& item : again.items())
            EXPECT_EQ(item.value(), file[item.key()]) << item.key();
        // Another processor sums in another order.
        EXPECT_NEAR(meanLoss(*model, plan), old.nll, 1e-5);
    }
}

TEST(OldFiles, ThePlanRemembersItsLocksAndProtection)
{
    const auto checkpoint = openTiny("mixtral-tiny");
    const CompressionPlan plan = take(readPlanFile(kOld / "kept.json", checkpoint->shape()));
    EXPECT_TRUE(plan.isLocked(0));
    EXPECT_EQ(plan.protectedExperts(1), (ExpertSet{2}));
}

TEST(OldFiles, AFactoredExportOpensRunsAndVerifies)
{
    const auto exported = take(Checkpoint::open(kOld / "factored"));
    auto model = modelOf(exported);
    const CompressionPlan whole = CompressionPlan::identity(model->shape());
    EXPECT_NEAR(meanLoss(*model, whole), kPlans[2].nll, 1e-5);
    EXPECT_EQ(planCost(model->shape(), whole).bytes, model->shape().bytes());
    // Compressed once more: sizes are those of the factors that are there.
    const CompressionPlan lower = take(whole.withRanks(model->shape(), 0, std::vector<RankTriple>(8, RankTriple{2, 2, 2})));
    EXPECT_GT(planCost(model->shape(), lower).expertParameters, 0);
    EXPECT_LT(planCost(model->shape(), lower).bytes, model->shape().bytes());

    VerifyOptions options;
    options.exported = kOld / "factored";
    options.source = test::tiny("mixtral-tiny");
    options.model.threads = 1;
    SilentJob job;
    const VerifyReport report = take(verifyExport(options, job));
    for (const VerifyCheck& check : report.checks)
        EXPECT_TRUE(check.holds) << check.name << ": " << check.detail;
}

TEST(OldFiles, APlanOnlyExportBringsItsFactors)
{
    auto model = modelOf(openTiny("mixtral-tiny"));
    model->setFactorSources({take(openPlanFactors(kOld / "plan-only" / kPlanFactorsName))});
    const CompressionPlan plan = take(readPlanFile(kOld / "plan-only" / "espalier_plan.json", model->shape()));
    EXPECT_EQ(plan.hash(), kPlans[1].hash);
    EXPECT_NEAR(meanLoss(*model, plan), kPlans[1].nll, 1e-5);
}

TEST(OldFiles, AProfileOpens)
{
    const ProfileData profile = take(readProfile(kOld / "profile.h5"));
    EXPECT_EQ(profile.fingerprint, openTiny("mixtral-tiny")->fingerprint());
    EXPECT_TRUE(profile.has("gram"));
    EXPECT_TRUE(profile.has("factors"));
    EXPECT_FALSE(profile.has("outputs"));
}

TEST(OldFiles, ASessionOpensWithItsHistoryAndPlans)
{
    const SessionData session = take(readSession(kOld / "session.espalier"));
    const SessionData sample = test::sampleSession();
    // Nothing shows them any more; they stay in the file.
    EXPECT_EQ(session.unknownFields.at("notes"), "Ünïcode notes");
    ASSERT_EQ(session.history.entries().size(), sample.history.entries().size());
    for (std::size_t i = 0; i < sample.history.entries().size(); ++i) {
        EXPECT_EQ(session.history.entries()[i].text, sample.history.entries()[i].text);
        EXPECT_EQ(session.history.entries()[i].plan, sample.history.entries()[i].plan);
    }
    ASSERT_EQ(session.runs.size(), sample.runs.size());
    for (std::size_t i = 0; i < sample.runs.size(); ++i)
        EXPECT_EQ(session.runs[i].planHash, sample.runs[i].planHash);
    EXPECT_EQ(session.snapshots.size(), sample.snapshots.size());
}

}  // namespace

}  // namespace espalier
